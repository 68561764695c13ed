"""What the authorization server could answer: a usable pair comes of it, or an error known by name."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orders_backup.allegro import oauth
from orders_backup.allegro.oauth import LONGEST_SECONDS, OAuth
from orders_backup.errors import AllegroAnswerError

PAIR = {"access_token": "a.b-c", "refresh_token": "d.e_f", "expires_in": 43199}
DEVICE = {"device_code": "d", "user_code": "ABCDEFGHI", "verification_uri": "https://a.test", "interval": 5}
TEXTS: list[object] = [
    "",
    "a b",
    "a\x00b",
    "a\r\nX-Injected: 1",
    "za\u017c\u00f3\u0142\u0107",
    "x" * 20_001,
    None,
    5,
    True,
    [],
    {},
]
SECONDS = [1e300, -1e300, -5, 0, "43199", 10**30]


def server(answer: bytes) -> OAuth:
    headers = {"content-type": "application/json"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=answer, headers=headers))
    return oauth.connect("https://auth.test", "id", "secret", "Tests/1.0", transport=transport)


@pytest.mark.parametrize("value", TEXTS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(
    ("ask", "sound", "name"),
    [
        (lambda one: oauth.refresh(one, "old"), PAIR, "access_token"),
        (lambda one: oauth.refresh(one, "old"), PAIR, "refresh_token"),
        (oauth.authorize_device, DEVICE, "device_code"),
        (oauth.authorize_device, DEVICE, "user_code"),
        (oauth.authorize_device, DEVICE, "verification_uri"),
    ],
    ids=["access", "refresh", "device", "user", "uri"],
)
def test_what_fits_no_header_and_no_column_is_refused_and_not_quoted(
    ask: Callable[[OAuth], object], sound: dict[str, object], name: str, value: object
) -> None:
    with pytest.raises(AllegroAnswerError) as refused:
        ask(server(json.dumps({**sound, name: value}).encode()))
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize("value", SECONDS)
def test_any_life_time_can_be_added_to_a_date(value: object) -> None:
    pair = oauth.refresh(server(json.dumps({**PAIR, "expires_in": value}).encode()), "old")
    device = oauth.authorize_device(server(json.dumps({**DEVICE, "expires_in": value, "interval": value}).encode()))
    for seconds in (pair.expires_in, device.expires_in, device.interval):
        assert 0 <= seconds <= LONGEST_SECONDS
        assert datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("literal", ["1e400", "NaN", "Infinity", "9" * 200_000, "null", "{}"])
def test_a_life_time_that_is_no_number_is_refused(literal: str) -> None:
    body = json.dumps(PAIR).replace("43199", literal).encode()
    with pytest.raises(AllegroAnswerError):
        oauth.refresh(server(body), "old")
