"""Deliveries over real HTTP: what arrives, in which order, when it is tried again, and what a crash costs."""

import base64
import contextlib
import hashlib
import hmac
import random
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from structlog.testing import capture_logs

from orders_backup import db as database
from orders_backup.orders import archive, changes
from orders_backup.webhooks import deliver, endpoints, guard, outbox, replay, schedule, sender

from .conftest import Got, Reply

if TYPE_CHECKING:
    from .conftest import House, Receiver


# What arrives


def test_a_change_arrives_signed_to_the_letter_of_standard_webhooks(house: "House", receiver: "Receiver") -> None:
    webhook, secret = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    (got,) = receiver.got
    message: Any = Webhook(secret).verify(got.body, got.headers)
    assert message["type"] == "order.created"
    assert message["data"]["order_id"] == "o"
    assert message["data"]["account_id"] == str(house.account)
    assert message["data"]["version"] == 1
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(got.body + b" ", got.headers)
    assert got.headers["content-type"] == "application/json"
    assert got.path == "/hook"


def test_the_signature_can_be_checked_by_hand(house: "House", receiver: "Receiver") -> None:
    webhook, secret = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    (got,) = receiver.got
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert 24 <= len(key) <= 64
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert got.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(got.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60


def test_the_document_goes_out_byte_for_byte_where_it_is_asked_for(house: "House", receiver: "Receiver") -> None:
    webhook, secret = house.endpoint(receiver.url, content="full")
    body = '{"id":"o", "total":12.30,"big":1e400 ,"name":"zażółć \\u0000"}'.encode()
    with database.transaction(house.runtime.db) as tx:
        archive.record(tx, house.runtime.codec, house.account, [changes.read(datetime.now(UTC), body)], cause="test")
    house.deliver(webhook)
    (got,) = receiver.got
    assert b'"order_data":' + body in got.body
    Webhook(secret).verify(got.body, got.headers, json_parse=False)


def test_bytes_that_are_no_json_are_left_out_and_said_so(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url, content="full")
    with database.transaction(house.runtime.db) as tx:
        reading = changes.read(datetime.now(UTC), b'{"id":"o","x":"\xff"}')
        archive.record(tx, house.runtime.codec, house.account, [reading], cause="test")
    house.deliver(webhook)
    (got,) = receiver.got
    assert (got.data["order_data"], got.data["order_data_omitted"]) == (None, "unreadable")


def test_types_and_accounts_narrow_what_is_sent_and_one_change_is_one_message(
    house: "House", receiver: "Receiver"
) -> None:
    other = house.seller()
    stranger = house.seller(uuid4())
    webhook, _ = house.endpoint(receiver.url, event_types=["order.status_changed", "order.cancelled"])
    only, _ = house.endpoint(receiver.url + "/only", account_ids=[other])
    for account in (house.account, other, stranger):
        house.changes("o", account=account, status="NEW")
        house.changes("o", account=account, status="CANCELLED", payment={})
    house.deliver(webhook)
    found = [(got.message["type"], got.data["account_id"]) for got in receiver.got]
    assert sorted(found) == sorted([("order.cancelled", str(house.account)), ("order.cancelled", str(other))])
    assert "order.payment_changed" in receiver.got[0].data["kinds"]
    receiver.got.clear()
    house.deliver(only)
    assert [(got.message["type"], got.data["account_id"]) for got in receiver.got] == [
        ("order.created", str(other)),
        ("order.cancelled", str(other)),
    ]


def test_an_endpoint_of_nobody_is_told_of_everybody_and_one_made_later_of_nothing_before(
    house: "House", receiver: "Receiver"
) -> None:
    house.changes("before")
    with database.transaction(house.runtime.db) as tx:
        options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
        webhook, _ = endpoints.make(tx, house.runtime.vault, user_id=None, url=receiver.url, **options)
    house.changes("a")
    house.changes("b", account=house.seller(uuid4()))
    house.deliver(webhook)
    assert sorted(got.data["order_id"] for got in receiver.got) == ["a", "b"]


def test_a_rotated_secret_and_the_old_one_both_verify_until_the_overlap_ends(
    house: "House", receiver: "Receiver"
) -> None:
    webhook, old = house.endpoint(receiver.url)
    with database.transaction(house.runtime.db) as tx:
        endpoints.lock(tx, webhook, seen_by=None)
        new = endpoints.rotate(tx, house.runtime.vault, webhook, overlap=timedelta(hours=1))
    house.changes("a")
    house.deliver(webhook)
    assert receiver.got[0].headers["webhook-signature"].count("v1,") == 2
    for secret in (old, new):
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
    house.change("UPDATE webhooks SET old_secret_until = clock_timestamp() - interval '1 s'")
    house.changes("b")
    house.deliver(webhook)
    Webhook(new).verify(receiver.got[1].body, receiver.got[1].headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(receiver.got[1].body, receiver.got[1].headers)


def test_no_secret_stands_in_the_database(house: "House", receiver: "Receiver") -> None:
    webhook, secret = house.endpoint(receiver.url)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    kept = bytes(house.row(webhook).secret_sealed)
    assert key not in kept
    assert secret.encode() not in kept
    other, _ = house.endpoint(receiver.url)
    house.change("UPDATE webhooks SET secret_sealed = :sealed WHERE webhook_id = :id", sealed=kept, id=other)
    with pytest.raises(Exception, match="changed, or belongs elsewhere"), database.transaction(house.runtime.db) as tx:
        endpoints.hold(tx, house.runtime.vault, other)


# When it is tried again


def test_a_failure_is_tried_again_by_the_schedule_under_the_same_id_and_then_given_up(
    house: "House", receiver: "Receiver"
) -> None:
    receiver.answers(500)
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    waits = []
    for _ in schedule.SCHEDULE:
        house.deliver(webhook)
        (row,) = house.deliveries(webhook)
        if row.due_at is not None:
            waits.append((row.due_at - house.value("SELECT clock_timestamp()")).total_seconds())
            house.later(webhook, f"{waits[-1] + 1} s")
            house.change("UPDATE webhooks SET failing_since = clock_timestamp(), silent_until = NULL")
    expected = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert len(waits) == len(expected)
    for wait, least in zip(waits, expected, strict=True):
        assert least - 2 <= wait <= least * 1.1
    (row,) = house.deliveries(webhook)
    assert (row.status, row.attempts, row.last_status_code) == ("failed", 10, 500)
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert len({got.body for got in receiver.got}) == 1
    assert house.value("SELECT count(*) FROM webhook_attempts") == 10


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304, 400, 404, 429, 500, 503])
def test_everything_but_2xx_is_a_failure_and_no_redirect_is_followed(
    house: "House", receiver: "Receiver", canary: tuple[int, list[object]], status: int
) -> None:
    port, touched = canary
    receiver.answers(status, b"", Location=f"http://127.0.0.1:{port}/")
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    (row,) = house.deliveries(webhook)
    assert (row.status, row.last_status_code, len(receiver.got)) == ("pending", status, 1)
    assert touched == []


def test_retry_after_is_waited_for_and_nothing_else_is_sent_meanwhile(house: "House", receiver: "Receiver") -> None:
    receiver.answers(503, Retry_After="1200")
    webhook, _ = house.endpoint(receiver.url)
    house.changes("a")
    house.deliver(webhook)
    wait = house.deliveries(webhook)[0].due_at - house.value("SELECT clock_timestamp()")
    assert timedelta(seconds=1190) < wait <= timedelta(seconds=1201)
    house.changes("b")
    assert house.wake() == []
    house.deliver(webhook)
    assert len(receiver.got) == 1
    assert house.row(webhook).due_at >= house.row(webhook).silent_until
    receiver.replies = lambda _got: Reply()
    house.later(webhook, "1201 s")
    house.deliver(webhook)
    assert sorted(got.data["order_id"] for got in receiver.accepted) == ["a", "b"]


def test_410_disables_at_once_until_a_person_brings_it_back_and_nothing_is_lost(
    house: "House", receiver: "Receiver"
) -> None:
    receiver.answers(410)
    webhook, _ = house.endpoint(receiver.url)
    house.changes("a")
    with capture_logs() as logs:
        house.deliver(webhook)
    row = house.row(webhook)
    assert (row.status, row.reason, row.due_at) == ("disabled", "gone", None)
    assert [line["log_level"] for line in logs if line["event"] == "webhook_disabled"] == ["error"]
    house.changes("b", "c")
    assert house.wake() == []
    house.deliver(webhook)
    assert len(receiver.got) == 1
    bring_back(house, webhook)
    house.change("UPDATE webhook_deliveries SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    house.deliver(webhook)
    assert len(receiver.got) == 2  # brought back it is tried with one message, not with all
    assert house.row(webhook).reason == "gone"
    receiver.replies = lambda _got: Reply()
    bring_back(house, webhook)
    assert house.wake() == [webhook]
    deliver.deliver(house.runtime, webhook)
    assert sorted(got.data["order_id"] for got in receiver.accepted) == ["a", "b", "c"]


def bring_back(house: "House", webhook: UUID) -> None:
    with database.transaction(house.runtime.db) as tx:
        endpoints.change(tx, webhook, endpoints.lock(tx, webhook, seen_by=None), {"status": "active"})


def test_an_answer_that_does_not_come_ends_after_the_deadline(
    house: "House", monkeypatch: pytest.MonkeyPatch, receiver: "Receiver"
) -> None:
    assert sender.SECONDS == 15.0
    receiver.replies = lambda _got: Reply(after=3.0)
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    monkeypatch.setattr(sender, "SECONDS", 0.3)
    house.deliver(webhook)
    (row,) = house.deliveries(webhook)
    assert row.status == "pending"
    assert "did not answer within 0.3 s" in row.last_error


def test_an_answer_that_drips_ends_with_the_deadline_too() -> None:
    """Each byte comes in time, and all of them would take for ever."""
    gone = threading.Event()

    def drips(listener: socket.socket) -> None:
        held, _ = listener.accept()
        held.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        with contextlib.suppress(OSError):
            while not gone.wait(0.05):
                held.sendall(b"x")
        held.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drips, args=(listener,))
        dripping.start()
        target = guard.Target("http", "127.0.0.1", listener.getsockname()[1], b"/")
        with sender.Sender(frozenset({"127.0.0.1"}), lambda: datetime.now(UTC), most=1, seconds=0.4) as one:
            answer = one.post(target, {}, b"{}")
        gone.set()
        dripping.join()
    assert answer.status is None
    assert "did not answer" in (answer.error or "")


def test_of_an_answer_two_kilobytes_are_kept(house: "House", receiver: "Receiver") -> None:
    receiver.answers(500, b"\x00" + b"x" * 5_000_000)
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    kept = house.value("SELECT answer FROM webhook_attempts")
    assert kept == "\ufffd" + "x" * 2047


@pytest.mark.parametrize("status", [200, 422, 500])
def test_an_endpoint_that_repeats_the_order_leaves_nothing_of_it_in_the_record(
    house: "House", receiver: "Receiver", status: int
) -> None:
    """Whole, in part, or in other letters: so nothing of such an answer is kept."""
    receiver.replies = lambda got: Reply(status, body=got.body if status == 200 else got.body.upper()[-200:])
    webhook, _ = house.endpoint(receiver.url, content="full")
    house.changes("o", buyer={"email": "planted@example.com"})
    house.deliver(webhook)
    assert b"planted" in receiver.got[-1].body
    attempts = house.rows("SELECT status_code, answer FROM webhook_attempts")
    assert {(row.status_code, row.answer) for row in attempts} == {(status, None)}


def test_an_answer_is_kept_of_failures_alone(house: "House", receiver: "Receiver") -> None:
    """Of a message without an order, and of a test to whoever else gets orders."""
    webhook, _ = house.endpoint(receiver.url, content="full")
    for status in (200, 500):
        receiver.answers(status, b"because")
        house.test(webhook)
        house.deliver(webhook)
    assert house.rows("SELECT status_code, answer FROM webhook_attempts ORDER BY attempted_at")[:2] == [
        (200, None),
        (500, "because"),
    ]


# How the endpoint is


def test_an_endpoint_that_fails_ten_times_gets_one_attempt_at_a_time_and_all_at_once_when_it_is_back(
    house: "House", receiver: "Receiver"
) -> None:
    receiver.answers(500)
    webhook, _ = house.endpoint(receiver.url)
    house.changes(*(f"o{number}" for number in range(60)))
    house.deliver(webhook)
    before = len(receiver.got)
    assert schedule.OPENS_AFTER <= before <= deliver.AT_ONCE * deliver.AHEAD
    pause = house.row(webhook).silent_until - house.value("SELECT clock_timestamp()")
    assert timedelta(0) < pause <= timedelta(minutes=5)
    house.deliver(webhook)
    assert len(receiver.got) == before
    house.later(webhook, "5 min")
    house.deliver(webhook)
    assert len(receiver.got) == before + 1
    receiver.replies = lambda _got: Reply()
    house.later(webhook, "5 min")
    house.change(
        "UPDATE webhook_deliveries SET due_at = clock_timestamp() + interval '2 h'"
        " WHERE seq > (SELECT min(seq) FROM webhook_deliveries)"
    )
    house.deliver(webhook)
    assert {got.data["order_id"] for got in receiver.accepted} == {f"o{number}" for number in range(60)}
    assert house.row(webhook).failures == 0


def test_five_days_of_failures_disable_with_an_alert_and_the_first_success_brings_everything(
    house: "House", receiver: "Receiver"
) -> None:
    receiver.answers(500)
    webhook, _ = house.endpoint(receiver.url)
    house.changes("a")
    house.deliver(webhook)
    house.later(webhook, "5 days")
    with capture_logs() as logs:
        house.deliver(webhook)
    row = house.row(webhook)
    assert (row.status, row.reason) == ("disabled", "failing")
    assert timedelta(minutes=50) < row.due_at - house.value("SELECT clock_timestamp()") <= timedelta(hours=1)
    assert [line["log_level"] for line in logs if line["event"] == "webhook_disabled"] == ["error"]
    house.changes("a")
    house.changes("b")
    assert house.wake() == []
    house.change("UPDATE webhook_deliveries SET tries = 9")
    house.later(webhook, "1 hour")
    house.deliver(webhook)
    (row,) = house.deliveries(webhook)
    assert (row.status, row.tries, row.attempts) == ("pending", 9, 3)  # what is tried while disabled is never given up
    receiver.replies = lambda _got: Reply()
    house.later(webhook, "1 hour")
    with capture_logs() as logs:
        house.deliver(webhook)
    assert [line["event"] for line in logs if line["event"].startswith("webhook_")] == ["webhook_recovered"]
    assert [got.data["version"] for got in receiver.accepted if got.data["order_id"] == "a"] == [1, 2]
    assert [got.data["order_id"] for got in receiver.accepted].count("b") == 1
    assert house.row(webhook).status == "active"


def test_an_open_endpoint_of_which_everything_waits_is_tried_with_what_is_new(
    house: "House", receiver: "Receiver"
) -> None:
    webhook, _ = house.endpoint(receiver.url)
    receiver.answers(500)
    house.changes("old")
    house.deliver(webhook)
    house.change("UPDATE webhooks SET failures = 20, silent_until = NULL")
    house.change("UPDATE webhook_deliveries SET due_at = clock_timestamp() + interval '2 h'")
    house.changes("new")
    assert house.wake() == [webhook]
    deliver.deliver(house.runtime, webhook)
    assert [got.data["order_id"] for got in receiver.got] == ["old", "new"]
    assert house.wake() == []


def test_a_paused_endpoint_gets_nothing_and_afterwards_everything(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    with database.transaction(house.runtime.db) as tx:
        endpoints.change(tx, webhook, endpoints.lock(tx, webhook, seen_by=None), {"status": "paused"})
    house.changes("a", "b")
    assert house.wake() == []
    house.deliver(webhook)
    assert receiver.got == []
    with database.transaction(house.runtime.db) as tx:
        endpoints.change(tx, webhook, endpoints.lock(tx, webhook, seen_by=None), {"status": "active"})
    assert house.wake() == [webhook]
    deliver.deliver(house.runtime, webhook)
    assert sorted(got.data["order_id"] for got in receiver.got) == ["a", "b"]


def test_a_failing_endpoint_keeps_no_healthy_one_waiting(
    house: "House", make_receiver: "Callable[[], Receiver]"
) -> None:
    """Failing ones share a quarter of the slots, however many they are."""
    bad = [house.endpoint(make_receiver().url)[0] for _ in range(6)]
    house.change("UPDATE webhooks SET failures = 1")
    good, _ = house.endpoint(make_receiver().url)
    house.changes("o")
    rung = house.wake()
    assert good in rung
    assert len(set(rung) & set(bad)) == 2


def test_an_endpoint_that_somebody_changes_for_long_holds_up_no_tick(house: "House", receiver: "Receiver") -> None:
    held, free = house.endpoint(receiver.url)[0], house.endpoint(receiver.url)[0]
    house.changes("o")
    with house.runtime.db.connect() as changing:
        endpoints.lock(changing, held, seen_by=None)
        assert house.wake() == [free]
        changing.rollback()
    assert house.wake() == [held]


# In order, none lost, none twice


def test_of_one_order_nothing_overtakes_what_waits_and_other_orders_go_on(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    receiver.replies = lambda got: Reply(500 if got.data["order_id"] == "stuck" else 200)
    for _ in range(3):
        house.changes("stuck", "free")
    house.deliver(webhook)
    assert [got.data["version"] for got in receiver.got if got.data["order_id"] == "stuck"] == [1]
    assert [got.data["version"] for got in receiver.accepted if got.data["order_id"] == "free"] == [1, 2, 3]
    receiver.replies = lambda _got: Reply()
    house.later(webhook)
    house.deliver(webhook)
    assert [got.data["version"] for got in receiver.accepted if got.data["order_id"] == "stuck"] == [1, 2, 3]


def test_even_where_two_of_an_order_are_due_only_the_first_is_taken(house: "House", receiver: "Receiver") -> None:
    """As after a replay, while a later one was on the way and failed."""
    receiver.answers(500)
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    house.changes("o")
    house.deliver(webhook)
    house.change("UPDATE webhook_deliveries SET due_at = clock_timestamp() - seq * interval '1 s'")
    with database.transaction(house.runtime.db) as tx:
        taken = outbox.take(tx, webhook, busy=[], full=False, limit=10)
    assert [message.version for message in taken] == [1]


def test_a_message_that_is_given_up_lets_the_next_of_its_order_go(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    receiver.replies = lambda got: Reply(500 if got.data["version"] == 1 else 200)
    house.changes("o")
    house.changes("o")
    house.deliver(webhook)
    house.change("UPDATE webhook_deliveries SET tries = 9 WHERE due_at IS NOT NULL")
    house.later(webhook)
    house.deliver(webhook)
    assert [row.status for row in house.deliveries(webhook)] == ["failed", "delivered"]


def test_with_thirty_failures_in_a_hundred_no_order_is_ever_out_of_order(house: "House", receiver: "Receiver") -> None:
    draw = random.Random(5)
    webhook, _ = house.endpoint(receiver.url)
    receiver.replies = lambda _got: Reply(500 if draw.random() < 0.3 else 200)
    orders = [f"o{number}" for number in range(20)]
    stopped = threading.Event()

    def seller_works() -> None:
        for _ in range(12):
            house.changes(*draw.sample(orders, 12))
        stopped.set()

    writer = threading.Thread(target=seller_works)
    writer.start()
    for _ in range(400):
        is_last = stopped.is_set()
        house.later(webhook)
        house.change("UPDATE webhooks SET failing_since = NULL")
        house.deliver(webhook, seconds=2)
        if is_last and not house.rows("SELECT FROM webhook_deliveries WHERE status = 'pending'"):
            break
    writer.join()
    assert_in_order(receiver.accepted)
    told = {(got.data["order_id"], got.data["version"]) for got in receiver.accepted}
    assert told == set(map(tuple, house.rows("SELECT order_id, version FROM order_versions")))
    assert len(told) == 12 * 12


def assert_in_order(accepted: list[Got]) -> None:
    """Of each order the numbers rise, and none comes twice."""
    last: dict[str, int] = {}
    for got in accepted:
        assert got.seq > last.get(got.data["order_id"], 0), got.message
        last[got.data["order_id"]] = got.seq


def test_what_an_older_transaction_stored_later_is_told_later(house: "House", receiver: "Receiver") -> None:
    """Transaction ids are no order: here the higher version has the lower one, and the horizon lies between both."""
    webhook, _ = house.endpoint(receiver.url)
    with (
        house.runtime.db.connect() as old,
        house.runtime.db.connect() as held,
    ):
        for connection in (old, held):  # in this order they take their transaction ids
            connection.execute(sa.text("SELECT pg_current_xact_id()"))
        house.changes("o")
        archive.record(
            old,
            house.runtime.codec,
            house.account,
            [changes.read(datetime.now(UTC) + timedelta(seconds=5), b'{"id":"o","status":"LATER"}')],
            cause="test",
        )
        old.commit()
        house.deliver(webhook)
        held.rollback()
    house.deliver(webhook)
    assert [got.data["version"] for got in receiver.got] == [1, 2]


def test_what_commits_late_is_told_and_nothing_is_told_twice(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    with house.runtime.db.connect() as late:
        late.execute(sa.text("SELECT pg_current_xact_id()"))
        house.changes("early")
        house.deliver(webhook)
        reading = changes.read(datetime.now(UTC), b'{"id":"late"}')
        archive.record(late, house.runtime.codec, house.seller(), [reading], cause="test")
        house.changes("early")
        house.deliver(webhook)
        late.commit()
    assert house.wake() == [webhook]
    house.deliver(webhook)
    house.deliver(webhook)
    assert sorted(got.data["order_id"] for got in receiver.got) == ["early", "early", "late"]


def test_a_pass_of_many_pages_is_whole_before_anything_is_sent(
    house: "House", receiver: "Receiver", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAGE", 2)
    webhook, _ = house.endpoint(receiver.url)
    for _ in range(4):
        house.changes("a", "b", "c")
    house.deliver(webhook)
    assert len(receiver.got) == 12
    assert_in_order(receiver.got)


def test_a_crash_between_two_pages_of_a_pass_loses_nothing(
    house: "House", receiver: "Receiver", monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, _ = house.endpoint(receiver.url)
    for _ in range(3):
        house.changes("a", "b")
    pages = outbox.fan_out
    seen: list[int] = []

    def dies_on_the_second(*given: Any, **options: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return pages(*given, **{**options, "page": 2})

    monkeypatch.setattr(outbox, "fan_out", dies_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        house.deliver(webhook)
    monkeypatch.setattr(outbox, "fan_out", pages)
    house.deliver(webhook)
    assert [got.data["version"] for got in receiver.got if got.data["order_id"] == "a"] == [1, 2, 3]
    assert len(receiver.got) == 6


def test_a_worker_that_is_asked_to_end_sends_nothing_new_and_leaves_the_rest_due(
    house: "House", receiver: "Receiver"
) -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes(*(f"o{number}" for number in range(300)))

    def ends(_got: Got) -> Reply:
        house.runtime.stopping.set()
        return Reply()

    receiver.replies = ends
    house.deliver(webhook)
    sent = len(receiver.got)
    assert 0 < sent < 300
    assert sum(row.status == "delivered" for row in house.deliveries(webhook)) == sent
    assert house.row(webhook).due_at <= house.value("SELECT clock_timestamp()")
    house.runtime.stopping.clear()
    receiver.replies = lambda _got: Reply()
    house.deliver(webhook)
    assert len(receiver.got) == 300


def test_what_happens_while_it_waits_for_a_try_stays_behind_it(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    happened = threading.Event()

    def fails_once(_got: Got) -> Reply:
        if happened.is_set():
            return Reply()
        house.changes("a", "b")
        happened.set()
        return Reply(status=500)

    receiver.replies = fails_once
    house.changes("a")
    house.deliver(webhook)
    house.deliver(webhook)
    assert [(got.data["order_id"], got.data["version"]) for got in receiver.accepted] == [("b", 1)]
    house.later(webhook)
    house.deliver(webhook)
    assert [got.data["version"] for got in receiver.accepted if got.data["order_id"] == "a"] == [1, 2]


def test_only_one_delivers_to_an_endpoint_and_who_lost_it_writes_nothing(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    lost = threading.Event()

    def taken_over(_got: Got) -> Reply:
        if not lost.is_set():
            lost.set()
            house.change("UPDATE webhooks SET lease_generation = lease_generation + 1")
        return Reply()

    receiver.replies = taken_over
    with pytest.raises(Exception, match="Another worker took over"):
        house.deliver(webhook)
    (row,) = house.deliveries(webhook)
    assert (row.status, row.attempts) == ("pending", 0)
    house.deliver(webhook)
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert house.deliveries(webhook)[0].status == "delivered"


def test_an_endpoint_that_is_deleted_meanwhile_ends_its_slice(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")

    def deletes(_got: Got) -> Reply:
        with database.transaction(house.runtime.db) as tx:
            endpoints.remove(tx, webhook)
        return Reply()

    receiver.replies = deletes
    with pytest.raises(Exception, match="Another worker took over"):
        house.deliver(webhook)
    assert house.rows("SELECT FROM webhook_deliveries") == []


def test_the_numbers_of_an_accounts_changes_rise_in_the_order_of_their_commits(house: "House") -> None:
    """Order rests on it: whoever writes a change of an account waits for who did before."""
    house.changes("o")
    with house.runtime.db.connect() as first:
        archive.record(
            first, house.runtime.codec, house.account, [changes.read(datetime.now(UTC), b'{"id":"x"}')], cause="test"
        )
        with house.runtime.db.connect() as second:
            second.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                archive.changed_beside(second, house.account, [("o", "order.invoices_changed")], cause="extras")
        first.rollback()


# What is asked for


def test_a_test_goes_before_everything_else_even_to_an_endpoint_that_fails(
    house: "House", receiver: "Receiver"
) -> None:
    receiver.answers(500)
    webhook, secret = house.endpoint(receiver.url)
    house.changes(*(f"o{number}" for number in range(30)))
    house.deliver(webhook)
    receiver.got.clear()
    receiver.replies = lambda got: Reply(200 if got.message["type"] == "webhook.test" else 500)
    house.test(webhook)
    house.deliver(webhook)
    Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
    assert receiver.got[0].message["type"] == "webhook.test"


def test_a_replay_sends_in_order_what_was_delivered_before(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    for _ in range(3):
        house.changes("a", "b")
    house.deliver(webhook)
    first = {got.headers["webhook-id"]: got.body for got in receiver.got}
    receiver.got.clear()
    wanted = replay.Wanted(datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1))
    with database.transaction(house.runtime.db) as tx:
        found = replay.replay(tx, endpoints.lock(tx, webhook, seen_by=None), wanted, dry_run=False)
    assert (found.matched, found.again) == (6, 6)
    assert house.wake() == [webhook]
    deliver.deliver(house.runtime, webhook)
    assert {got.headers["webhook-id"]: got.body for got in receiver.got} == first
    assert_in_order(receiver.got)


def test_a_replay_while_a_later_message_waits_puts_the_earlier_one_before_it(
    house: "House", receiver: "Receiver"
) -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    receiver.answers(500)
    house.changes("o")
    house.deliver(webhook)
    receiver.got.clear()
    receiver.replies = lambda _got: Reply()
    wanted = replay.Wanted(datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1))
    with database.transaction(house.runtime.db) as tx:
        found = replay.replay(tx, endpoints.lock(tx, webhook, seen_by=None), wanted, dry_run=False)
    assert (found.matched, found.again, found.pending) == (2, 1, 1)
    house.deliver(webhook)
    assert [got.data["version"] for got in receiver.got] == [1, 2]


def test_a_replay_in_the_midst_of_a_slice_is_not_forgotten(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes("a")
    house.deliver(webhook)
    wanted = replay.Wanted(datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC))

    def replays(got: Got) -> Reply:
        if got.data["order_id"] == "b":
            with database.transaction(house.runtime.db) as tx:
                replay.replay(tx, endpoints.lock(tx, webhook, seen_by=None), wanted, dry_run=False)
        return Reply()

    receiver.replies = replays
    house.changes("b")
    house.deliver(webhook, seconds=0.2)
    for key in house.wake():
        deliver.deliver(house.runtime, key)
    assert [got.data["order_id"] for got in receiver.got] == ["a", "b", "a"]


def test_what_ended_long_ago_is_forgotten_and_a_replay_brings_it_back_under_its_old_id(
    house: "House", receiver: "Receiver"
) -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    house.change("UPDATE webhook_deliveries SET created_at = created_at - interval '31 days'")
    house.deliver(webhook)
    assert house.deliveries(webhook) == []
    house.changes("p")
    wanted = replay.Wanted(datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1))
    with database.transaction(house.runtime.db) as tx:
        replay.replay(tx, endpoints.lock(tx, webhook, seen_by=None), wanted, dry_run=False)
    house.deliver(webhook)
    told = sorted((got.data["order_id"], got.headers["webhook-id"]) for got in receiver.got)
    assert [order for order, _ in told] == ["o", "o", "p"]
    assert told[0] == told[1]
