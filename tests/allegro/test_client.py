"""What we ask Allegro and what its answers mean. Allegro's side is played by answers that integrators observed."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders_backup import errors
from orders_backup.allegro import client, oauth
from orders_backup.allegro.client import Client
from orders_backup.allegro.oauth import OAuth

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOKEN = "access-token-of-the-seller"
VND = "application/vnd.allegro.public.v1+json"
JWT = "eyJhbGciOiJSUzI1NiJ9." + "cGF5bG9hZA" * 60 + ".c2lnbmF0dXJl"


class Allegro:
    """Answers every request alike and remembers them."""

    def __init__(self, status: int = 200, body: object = None, **headers: str) -> None:
        self.asked: list[httpx.Request] = []
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"content-type": headers.pop("content_type", VND), "trace-id": "e225ed72221dc6c"}
        self._answer = (status, content, kind | headers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        status, content, headers = self._answer
        return httpx.Response(status, content=content, headers=headers)

    @property
    def query(self) -> dict[str, str]:
        return dict(self.asked[-1].url.params)


def api(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return client.connect(
        "https://api.test", "Tests/1.0 (+https://a.test)", lambda: NOW, transport=httpx.MockTransport(answer)
    )


def authorization(answer: Callable[[httpx.Request], httpx.Response]) -> OAuth:
    transport = httpx.MockTransport(answer)
    return oauth.connect("https://auth.test", "our-id", "our-secret", "Tests/1.0", transport=transport)


def listed(*code: str) -> dict[str, Any]:
    """Allegro's own way to write errors."""
    return {"errors": [{"code": one, "message": "An error has occurred", "details": None} for one in code]}


OBSERVED: list[tuple[str, int, str, object, type[errors.AllegroError]]] = [
    ("date without zone", 400, VND, listed("ValidationException"), errors.AllegroError),
    ("no token", 401, "application/json", {"error": "unauthorized"}, errors.AllegroUnauthorizedError),
    ("token expired", 401, "application/json", {"error": "invalid_token"}, errors.AllegroUnauthorizedError),
    ("401 without json", 401, "text/html", b"<html>", errors.AllegroUnauthorizedError),
    (
        "bot block",
        403,
        "text/html",
        b"<!doctype html><title>You have been blocked</title>",
        errors.AllegroUnavailableError,
    ),
    ("missing scope", 403, VND, listed("AccessDenied"), errors.AllegroForbiddenError),
    ("no such order", 404, VND, listed("CheckoutFormNotFoundException"), errors.AllegroNotFoundError),
    ("404 of a gateway", 404, "text/html", b"<h1>Not Found</h1>", errors.AllegroUnavailableError),
    ("wrong media type", 406, VND, listed("NotAcceptableException"), errors.AllegroError),
    ("limit too large", 422, VND, listed("VALIDATION_ERROR"), errors.AllegroError),
    ("client id limit", 429, "application/json", listed("TooManyRequestsException"), errors.AllegroLimitError),
    ("resource limit", 429, "application/json", listed("RateLimitExceedException"), errors.AllegroLimitError),
    ("429 without json", 429, "text/html", b"slow down", errors.AllegroLimitError),
    ("internal", 500, VND, listed("INTERNAL_SERVER_ERROR"), errors.AllegroUnavailableError),
    ("gateway in html", 504, "text/html", b"<h1>504 Gateway Time-out</h1>", errors.AllegroUnavailableError),
    ("gateway in json", 504, VND, listed("ServiceTimeoutException"), errors.AllegroUnavailableError),
    ("200 of a captcha", 200, "text/html", b"<html>are you human?", errors.AllegroAnswerError),
    ("200 without a type", 200, "", b"{}", errors.AllegroAnswerError),
    ("200 truncated", 200, VND, b'{"checkoutForms":[', errors.AllegroUnreadableError),
    ("200 of another shape", 200, VND, {"orders": []}, errors.AllegroUnreadableError),
    ("redirect", 302, "text/html", b"", errors.AllegroUnavailableError),
    ("no content", 204, "", b"", errors.AllegroUnavailableError),
]


@pytest.mark.parametrize(
    ("status", "kind", "body", "error"), [row[1:] for row in OBSERVED], ids=[r[0] for r in OBSERVED]
)
def test_each_observed_answer_becomes_its_error(
    status: int, kind: str, body: object, error: type[errors.AllegroError]
) -> None:
    allegro = Allegro(status, body, content_type=kind)
    with pytest.raises(errors.AllegroError) as failed:
        client.orders_updated(api(allegro), TOKEN, since=NOW, offset=0)
    assert type(failed.value) is error
    assert TOKEN not in told(failed.value)
    assert len(allegro.asked) == 1
    if status != 200:
        assert (failed.value.http_status, failed.value.trace_id) == (status, "e225ed72221dc6c")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("secret detail"),
        httpx.ConnectTimeout("x"),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.DecodingError("x"),
        httpx.ReadError("x"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_broken_connection_is_an_outage_told_by_its_kind_alone(failure: httpx.HTTPError) -> None:
    def break_off(_: httpx.Request) -> httpx.Response:
        raise failure

    with pytest.raises(errors.AllegroUnavailableError) as away:
        client.me(api(break_off), TOKEN)
    assert str(away.value) == f"Allegro did not answer: {type(failure).__name__}."
    with pytest.raises(errors.AllegroUnavailableError) as away:
        oauth.refresh(authorization(break_off), JWT)
    assert JWT not in told(away.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("999999", 3600),
        ("9" * 400, 3600),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        (format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True), 0),
        (format_datetime(datetime(2200, 1, 1, tzinfo=UTC), usegmt=True), 3600),
    ],
)
def test_the_limit_says_how_long_allegro_asked_to_wait(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_moment_in_retry_after_is_counted_from_now() -> None:
    wait = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert wait == pytest.approx(90, abs=5)


def test_without_retry_after_the_limit_says_nothing_about_it() -> None:
    assert retry_after(None) is None


@pytest.mark.parametrize("header", ["Wed, 21 Oct 2026 07:28:00 -0000", "Wed, 21 Oct 2026 07:28:00"])
def test_a_malformed_retry_after_is_still_the_limit(header: str) -> None:
    with pytest.raises(errors.AllegroLimitError):
        client.me(api(Allegro(429, {}, **{"retry-after": header})), TOKEN)


def test_redirects_are_not_followed_and_the_token_goes_nowhere_else() -> None:
    for call in (lambda at: client.me(api(at), TOKEN), lambda at: oauth.refresh(authorization(at), JWT)):
        allegro = Allegro(307, {}, location="https://evil.test/")
        with pytest.raises(errors.AllegroError):
            call(allegro)
        assert [request.url.host.removesuffix(".test") for request in allegro.asked] in (["api"], ["auth"])


def test_every_request_says_who_asks_what_it_takes_and_for_whom() -> None:
    allegro = Allegro(body={"id": "1", "login": "sklep"})
    assert client.me(api(allegro), TOKEN) == ("1", "sklep")
    [request] = allegro.asked
    assert (request.method, str(request.url)) == ("GET", "https://api.test/me")
    assert request.headers["accept"] == VND
    assert request.headers["user-agent"] == "Tests/1.0 (+https://a.test)"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    for http in (api(Allegro()).http, authorization(Allegro()).http):
        assert not http.trust_env
        assert not http._mounts


def test_a_window_of_purchases_ends_one_millisecond_before_the_next_begins() -> None:
    allegro = Allegro(body={"checkoutForms": [], "totalCount": 0})
    zone = datetime.fromisoformat("2026-01-31T01:00:00+01:00")
    client.orders_bought(api(allegro), TOKEN, since=NOW, until=zone, offset=200, limit=100)
    assert allegro.asked[0].url.path == "/order/checkout-forms"
    assert allegro.query == {
        "lineItems.boughtAt.gte": "2026-01-01T12:00:00.000Z",
        "lineItems.boughtAt.lte": "2026-01-30T23:59:59.999Z",
        "sort": "lineItems.boughtAt",
        "offset": "200",
        "limit": "100",
    }


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),
    st.timedeltas(timedelta(milliseconds=1), timedelta(days=400)),
)
def test_windows_that_touch_leave_no_millisecond_out(middle: datetime, length: timedelta) -> None:
    allegro = Allegro(body={"checkoutForms": [], "totalCount": 0})
    asking = api(allegro)
    client.orders_bought(asking, TOKEN, since=middle - length, until=middle, offset=0, limit=1)
    ended = datetime.fromisoformat(allegro.query["lineItems.boughtAt.lte"])
    client.orders_bought(asking, TOKEN, since=middle, until=middle + length, offset=0, limit=1)
    began = datetime.fromisoformat(allegro.query["lineItems.boughtAt.gte"])
    assert ended < middle
    assert began <= middle
    assert began - ended <= timedelta(milliseconds=1)
    whole = middle.replace(microsecond=middle.microsecond // 1000 * 1000)
    if whole == middle:
        assert (ended, began) == (whole - timedelta(milliseconds=1), whole)


def test_changed_orders_are_asked_for_since_a_moment_with_milliseconds_and_z() -> None:
    allegro = Allegro(body={"checkoutForms": [], "totalCount": 0})
    client.orders_updated(api(allegro), TOKEN, since=NOW.replace(microsecond=7999), offset=0)
    assert allegro.query == {
        "updatedAt.gte": "2026-01-01T12:00:00.007Z",
        "sort": "updatedAt",
        "offset": "0",
        "limit": "100",
    }


def test_the_journal_is_asked_for_a_full_page_of_all_types_after_an_event() -> None:
    allegro = Allegro(body={"events": [{"id": "8"}]})
    page = client.events(api(allegro), TOKEN, after="7")
    assert allegro.query == {"from": "7", "limit": "1000"}
    assert [event.event_id for event in page.events] == ["8"]
    assert page.sent_at == NOW


def test_the_newest_event_is_asked_of_the_statistics() -> None:
    allegro = Allegro(body={"latestEvent": {"id": "9"}})
    assert client.latest_event_id(api(allegro), TOKEN) == "9"
    assert allegro.asked[0].url.path == "/order/event-stats"


def test_a_reading_is_stamped_before_its_request_is_sent() -> None:
    moments = iter([NOW, NOW + timedelta(seconds=1)])

    def answer(_: httpx.Request) -> httpx.Response:
        assert next(moments) == NOW + timedelta(seconds=1)
        return httpx.Response(200, content=b'{ "id":"x" }', headers={"content-type": VND})

    asking = client.connect("https://api.test", "t", lambda: next(moments), transport=httpx.MockTransport(answer))
    assert client.order(asking, TOKEN, "x") == client.OneOrder(NOW, b'{ "id":"x" }')


def test_a_list_page_hands_out_each_orders_bytes() -> None:
    allegro = Allegro(body=b'{"checkoutForms":[ { "id":"x" },{"id":"y"}],"totalCount":12000}')
    page = client.orders_updated(api(allegro), TOKEN, since=NOW, offset=0)
    assert page == client.OrderPage(NOW, [b'{ "id":"x" }', b'{"id":"y"}'], 12000)


@pytest.mark.parametrize("order_id", ["../../me", "a?b=c", "a#b", "a%2Fb"])
def test_an_order_id_never_leaves_its_place_in_the_path(order_id: str) -> None:
    allegro = Allegro(body={"id": "x"})
    client.order(api(allegro), TOKEN, order_id)
    assert allegro.asked[0].url.raw_path.count(b"/") == 3
    assert not allegro.query
    assert allegro.asked[0].url.path == f"/order/checkout-forms/{order_id}"


REFUSED = [
    ("bad client", 401, {"error": "Unauthorized", "error_description": "Unauthorized"}, "Unauthorized"),
    ("no device app", 401, [{"code": "unauthorized_client", "message": "no grant"}], "unknown"),
    ("pending", 400, {"error": "authorization_pending"}, "authorization_pending"),
    ("slow down", 400, {"error": "slow_down"}, "slow_down"),
    ("denied", 400, {"error": "access_denied"}, "access_denied"),
    ("used code", 400, {"error": "invalid_request", "error_description": "Invalid device code"}, "invalid_request"),
    ("tutorial's", 400, {"error": "Invalid device code"}, "Invalid device code"),
    ("unsupported", 400, {"error": "unsupported_grant_type"}, "unsupported_grant_type"),
    ("dead", 400, {"error": "invalid_grant", "error_description": f"Invalid refresh token: {JWT}"}, "invalid_grant"),
    ("wrong kind", 400, {"error": "invalid_token"}, "invalid_token"),
    ("html", 400, b"<html>", "unknown"),
    ("no text", 400, {"error": 5}, "unknown"),
    ("not ascii", 401, {"error": "żółw"}, "unknown"),
    ("nothing", 400, b"", "unknown"),
]


@pytest.mark.parametrize(("status", "body", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_each_refusal_of_the_authorization_server_is_told_by_its_code(status: int, body: object, code: str) -> None:
    asking = authorization(Allegro(status, body, content_type="application/json"))
    for call in (
        lambda: oauth.refresh(asking, JWT),
        lambda: oauth.redeem_device_code(asking, JWT),
        lambda: oauth.authorize_device(asking),
    ):
        with pytest.raises(errors.TokenRefusedError) as refused:
            call()
        assert (refused.value.error, refused.value.http_status) == (code, status)
        for secret in (JWT, JWT[:25], "our-secret"):
            assert secret not in told(refused.value)


def test_a_token_echoed_as_the_error_code_travels_nowhere() -> None:
    asking = authorization(Allegro(400, {"error": JWT}, content_type="application/json"))
    with pytest.raises(errors.TokenRefusedError) as refused:
        oauth.refresh(asking, JWT)
    assert JWT[:25] not in told(refused.value)


@pytest.mark.parametrize(
    ("status", "kind", "body", "error"),
    [
        (429, "application/json", {"error": "token_creation_rate_limit_exceeded"}, errors.AllegroLimitError),
        (403, "text/html", b"<title>You have been blocked</title>", errors.AllegroUnavailableError),
        (500, "application/json", {"error": "server_error"}, errors.AllegroUnavailableError),
        (503, "text/html", b"", errors.AllegroUnavailableError),
        (200, "text/html", b"<html>", errors.AllegroAnswerError),
        (200, "application/json", {"access_token": JWT}, errors.AllegroAnswerError),
        (200, "application/json", {"access_token": None, "refresh_token": JWT}, errors.AllegroAnswerError),
        (200, "application/json", b'{"access_token":"' + JWT.encode(), errors.AllegroAnswerError),
    ],
)
def test_an_answer_that_is_no_oauth_answer_does_not_kill_the_login(
    status: int, kind: str, body: object, error: type[errors.AllegroError]
) -> None:
    with pytest.raises(errors.AllegroError) as failed:
        oauth.refresh(authorization(Allegro(status, body, content_type=kind)), JWT)
    assert type(failed.value) is error
    assert JWT not in told(failed.value)


def test_a_refresh_is_a_form_in_the_body_with_our_credentials_and_nothing_in_the_address() -> None:
    allegro = Allegro(body={"access_token": "A", "refresh_token": "R", "expires_in": "43199", "jti": "x"})
    pair = oauth.refresh(authorization(allegro), JWT)
    [request] = allegro.asked
    assert pair == oauth.Pair("A", "R", 43199)
    assert (request.method, str(request.url)) == ("POST", "https://auth.test/auth/oauth/token")
    assert request.read().decode() == f"grant_type=refresh_token&refresh_token={JWT}"
    assert request.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("number", [5, "5"])
def test_a_device_flow_starts_with_what_allegro_answers_in_numbers_or_texts(number: object) -> None:
    answer = {
        "device_code": "D" * 32,
        "user_code": "abcdefghi",
        "verification_uri": "https://allegro.pl/skojarz-aplikacje",
        "verification_uri_complete": "https://allegro.pl/skojarz-aplikacje?code=abcdefghi",
        "expires_in": 3600,
        "interval": number,
    }
    started = oauth.authorize_device(authorization(Allegro(body=answer)))
    assert (started.interval, started.expires_in, started.user_code) == (5, 3600, "abcdefghi")
    assert started.verification_uri_complete.endswith("?code=abcdefghi")
    assert "D" * 32 not in repr(started)


def test_a_device_flow_without_an_interval_asks_every_five_seconds() -> None:
    answer = {"device_code": "d", "user_code": "u", "verification_uri": "https://a.test/x"}
    started = oauth.authorize_device(authorization(Allegro(body=answer)))
    assert (started.interval, started.verification_uri_complete) == (5, "https://a.test/x")


def test_a_pair_shows_no_token() -> None:
    assert "secret" not in repr(oauth.Pair("secret-a", "secret-r", 1))


def retry_after(header: str | None) -> float | None:
    allegro = Allegro(429, {}, **({} if header is None else {"retry-after": header}))
    with pytest.raises(errors.AllegroLimitError) as limited:
        client.me(api(allegro), TOKEN)
    return limited.value.retry_after


def told(error: BaseException) -> str:
    """All that an error may show to a log, its causes included."""
    shown = f"{error!s}{error!r}{error.args}{vars(error)}"
    return shown + (told(error.__cause__) if error.__cause__ else "")
