"""Rounds over a real database, told to real receivers: crashes, doubles, storms and channels that fail."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs
from tests.webhooks.conftest import OK, Receiver, Reply

from orders_backup import channels, due, gauges, worker
from orders_backup import db as database
from orders_backup.alerts import facts, state, watch
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.orders import archive, changes
from orders_backup.settings import Settings
from orders_backup.tables import watches

from .conftest import Place, with_channels


def test_of_a_healthy_installation_nobody_is_told_anything(place: Place) -> None:
    place.seller()
    for kind in watch.EVERY:
        place.round(kind)
    assert place.rows("SELECT * FROM alerts") == []
    assert place.titles() == []


def test_a_lost_login_is_told_at_once_by_every_channel_and_so_is_its_return(place: Place) -> None:
    account = place.seller()
    place.loses(account)
    place.round()
    place.later("1 min")
    assert place.titles(0) == place.titles(1)
    assert place.titles() == ["[critical] token_lost – Allegro Orders Backup (production)"]
    body = place.messages()[0]["message"]
    assert str(account) in body
    assert "Connect the seller again" in body
    place.reconnects(account)
    place.rounds(7)
    assert [one.split()[0] for one in place.titles()] == ["[critical]", "[recovered]"]


def test_a_thousand_stale_accounts_are_one_message(place: Place) -> None:
    for _ in range(1000):
        place.seller()
    place.change("UPDATE syncs SET succeeded_at = now() - interval '16 min'")
    place.rounds(5)
    assert place.titles() == ["[error] sync_stale (1000) – Allegro Orders Backup (production)"]
    assert "and 995 more" in place.messages()[0]["message"]


def test_a_journal_is_stale_by_its_own_interval(place: Place) -> None:
    account = place.seller()
    place.seller()
    stale = "UPDATE syncs SET succeeded_at = now() - interval '16 min', poll_seconds = :every WHERE account_id = :id"
    place.change(stale, every=900, id=account)
    place.rounds(5)
    assert place.titles() == []
    place.change(stale, every=150, id=account)
    place.rounds(5)
    assert [title.split()[1] for title in place.titles()] == ["sync_stale"]


def test_three_failures_in_a_row_raise_an_alert_and_two_do_not(place: Place) -> None:
    account = place.seller()
    place.seller()
    place.change(
        "UPDATE syncs SET failures = 2, last_error = 'Allegro answered 503.' WHERE account_id = :id", id=account
    )
    place.rounds(5)
    assert place.titles() == []
    place.change("UPDATE syncs SET failures = 3, last_error = 'Allegro denies' WHERE account_id = :id", id=account)
    place.rounds(5)
    assert [title.split()[1] for title in place.titles()] == ["sync_failing"]
    place.change("UPDATE syncs SET last_error = 'Allegro answered 503.' WHERE account_id = :id", id=account)
    place.round()
    assert [title.split()[1] for title in place.titles()] == ["sync_failing", "allegro_down"]


def test_other_work_that_fails_three_times_raises_one_too(place: Place) -> None:
    account = place.seller()
    row = "INSERT INTO archives (account_id, failures, due_at) VALUES (:id, 3, now() + interval '1 h')"
    place.change(row, id=account)
    place.round()
    [(subject, of, detail)] = place.rows("SELECT subject, account_id, detail FROM alerts")
    assert (subject, of, detail) == (str(account), account, "archive")


def test_an_endpoint_that_was_given_up_raises_one(place: Place) -> None:
    hook = uuid4()
    place.change(
        "INSERT INTO webhooks (webhook_id, url, secret_sealed, cursor_xid, status, reason)"
        " VALUES (:hook, 'https://k4n4r3k.example', '', '1', 'disabled', 'gone')",
        hook=hook,
    )
    place.round()
    assert str(hook) in place.messages()[0]["message"]


def test_what_is_on_the_cliff_set_aside_or_unproven_is_told_by_the_thorough_round(place: Place) -> None:
    account = place.seller()
    place.change("UPDATE accounts SET connected_at = now() - interval '40 days'")
    for number, acknowledged in ((1, "NULL"), (2, "now()")):
        place.change(
            f"""INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at, failures, set_aside_at,
                                         acknowledged_at)
                VALUES (:id, '0rd3r-{number}', 'event', now(), now(), 5, now(), {acknowledged})""",
            id=account,
        )
    place.change(
        """INSERT INTO sync_history (id, account_id, kind, status, finished_at)
                VALUES (gen_random_uuid(), :id, 'reconcile', 'failed', now())""",
        id=account,
    )
    place.round("thorough")
    found = dict(place.rows("SELECT rule, detail FROM alerts WHERE opened_at IS NOT NULL").__iter__())
    assert set(found) == {"cliff_near", "certificate_old", "not_proven", "set_aside"}
    assert found["set_aside"] == "Orders: 1."
    assert [title.split()[0] for title in place.titles()] == ["[critical]", "[error]", "[warning]"]
    place.change("UPDATE owed_orders SET acknowledged_at = now()")
    place.later("15 min")
    place.round("thorough")
    place.later("15 min")
    place.round("thorough")
    assert place.titles()[-1].startswith("[recovered] set_aside")


def test_three_hours_without_an_order_are_told_where_many_are_usual(place: Place) -> None:
    busy, idle = place.seller(), place.seller()
    hours = range(4, 24 * 7 * 8)  # for eight weeks ten an hour, or one in six hours; none in the last four
    for account, bodies in (
        (busy, [(hour, number) for hour in hours for number in range(10)]),
        (idle, [(hour, 0) for hour in hours if hour % 6 == 0]),
    ):
        place.change(
            """INSERT INTO orders (account_id, order_id, version, versions, sha256, read_at, line_item_ids, ordered_at)
               SELECT :id, hour || '-' || number, 1, 1, '', now(), '{}', now() - make_interval(hours => hour)
                 FROM unnest(CAST(:hours AS int[]), CAST(:numbers AS int[])) AS t (hour, number)""",
            id=account,
            hours=[hour for hour, _ in bodies],
            numbers=[number for _, number in bodies],
        )
    place.round("hourly")
    [(subject, detail)] = place.rows("SELECT subject, detail FROM alerts")
    assert subject == str(busy)
    assert re.fullmatch(r"None for 4 h; 3\d are usual\.", detail)
    place.change("UPDATE syncs SET succeeded_at = now() - interval '20 min'")  # nobody knows whether orders come
    place.rounds(8, "hourly")
    assert place.titles() == ["[warning] orders_unusual – Allegro Orders Backup (production)"]
    place.change("UPDATE syncs SET succeeded_at = now()")
    place.change("UPDATE orders SET ordered_at = now() WHERE account_id = :id AND order_id = '4-1'", id=busy)
    place.rounds(7, "hourly")
    assert len(place.titles()) == 2


def test_a_part_that_does_not_answer_is_told_after_its_hold(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "parts", lambda _: {"broker": "does not answer", "storage": "does not answer"})
    place.rounds(5)
    assert [title.split()[1] for title in place.titles()] == ["broker_failing", "storage_failing"]


def test_a_broker_at_a_dead_address_is_found_to_fail(settings: Settings) -> None:
    runtime = with_channels(settings.model_copy(update={"broker_url": "redis://127.0.0.1:9/0"}))
    assert facts.parts(runtime) == {"broker": "does not answer"}
    runtime.close()


# Crashes and doubles


def test_a_crash_between_writing_and_sending_repeats_and_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.loses(place.seller())
    with monkeypatch.context() as crash:
        crash.setattr(watch, "tell", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.round()
    assert place.rows("SELECT news, heard FROM alerts") == [("opened", None)]
    watch.work(place.runtime, "quick")  # under the lease of the dead one
    assert place.titles() == []
    place.round()
    assert len(place.titles()) == 1


def test_a_crash_after_sending_tells_once_more_and_not_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.loses(place.seller())
    with monkeypatch.context() as crash:
        crash.setattr(watch, "_told", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.round()
    place.rounds(5)
    assert len(place.titles()) == 2


def test_of_many_who_look_at_once_one_tells(place: Place) -> None:
    place.loses(place.seller())
    place.change("UPDATE watches SET due_at = clock_timestamp() - interval '1 min'")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: watch.work(place.runtime, "quick"), range(6)))
    assert [len(place.titles(number)) for number in (0, 1)] == [1, 1]
    assert len(place.rows("SELECT * FROM alerts")) == 1


def test_who_lost_the_lease_before_sending_sends_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.loses(place.seller())
    look = watch._look

    def look_and_be_slow(*given: Any) -> Any:
        found = look(*given)
        place.change("UPDATE watches SET lease_generation = lease_generation + 1")
        return found

    monkeypatch.setattr(watch, "_look", look_and_be_slow)
    with capture_logs() as logs:
        place.round()
    assert [one["event"] for one in logs] == ["alert_round_lost"]
    assert place.titles() == []
    assert place.rows("SELECT * FROM alerts") == []


def test_no_transaction_is_open_while_a_channel_is_told(place: Place) -> None:
    found: list[int] = []

    def watched(_: object) -> Reply:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
        found.append(place.rows(query)[0][0])
        return OK

    place.receivers[0].replies = watched
    place.loses(place.seller())
    place.round()
    assert found == [1]  # the one that asks


# Channels that fail


def test_what_a_broken_channel_does_not_take_leaves_by_the_other_and_so_does_the_alert_about_it(place: Place) -> None:
    place.receivers[0].answers(500)
    place.loses(place.seller())
    place.rounds(12)
    assert place.titles(0) == []
    assert [title.split()[1] for title in place.titles(1)] == ["token_lost", "channel_failing"]
    assert "1-json: 3 times in a row." in place.messages(1)[1]["message"]
    place.receivers[0].replies = lambda _: OK
    place.rounds(40)
    told = [(title.split("]")[0], title.split()[1]) for title in place.titles(0)]
    assert told == [("[critical", "token_lost"), ("[error", "channel_failing"), ("[recovered", "channel_failing")]
    assert place.titles(1)[-1].startswith("[recovered] channel_failing")
    assert place.rows("SELECT channel, failures FROM alert_channels ORDER BY channel") == [("1-json", 0), ("2-json", 0)]


def test_a_channel_that_failed_is_left_alone_for_a_while(place: Place) -> None:
    place.receivers[0].answers(500)
    for _ in range(3):
        place.loses(place.seller())
        place.round()
    assert [len(one.got) for one in place.receivers] == [1, 3]
    place.later("1 min")
    place.round()
    place.later("1 min")
    place.round()
    assert len(place.receivers[0].got) == 2


def test_a_channel_that_hangs_keeps_no_other_waiting_and_is_not_asked_again_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SEND_WITHIN", 1.0)
    release = threading.Event()

    def hang(_: object) -> Reply:
        release.wait(30)
        return OK

    place.receivers[0].replies = hang
    place.loses(place.seller())
    place.round()
    assert len(place.titles(1)) == 1
    place.later("10 min")
    place.loses(place.seller())
    place.round()
    assert len(place.titles(1)) == 2
    assert place.rows("SELECT failures, error FROM alert_channels WHERE channel = '1-json'") == [(2, "hangs")]
    assert place.receivers[0].connections == 1
    release.set()


def test_no_redirect_is_followed(place: Place, make_receiver: Callable[[], Receiver]) -> None:
    elsewhere = make_receiver()
    place.receivers[0].answers(307, Location=elsewhere.url)
    place.loses(place.seller())
    place.round()
    assert elsewhere.connections == 0
    assert place.rows("SELECT error FROM alert_channels WHERE channel = '1-json'") == [("refused",)]


def test_an_alert_leaves_by_mail_beside_a_dead_channel(settings: Settings, mailbox: tuple[int, list[str]]) -> None:
    port, mails = mailbox
    mail = f"mailto://127.0.0.1:{port}/?from=alerts@example.com&to=oncall@example.com&mode=insecure"
    runtime = with_channels(settings, "json://127.0.0.1:9/dead", mail)
    place = Place(runtime, [])
    place.loses(place.seller())
    place.round()
    assert place.rows("SELECT channel, error FROM alert_channels ORDER BY 1") == [
        ("1-json", "refused"),
        ("2-mailto", None),
    ]
    assert len(mails) == 1
    assert "token_lost" in mails[0]
    runtime.close()


def test_without_channels_alerts_stand_in_the_list_and_wait_for_one(settings: Settings, place: Place) -> None:
    bare = Place(with_channels(settings), [])
    bare.loses(bare.seller())
    bare.rounds(3)
    assert bare.rows("SELECT news, heard FROM alerts") == [("opened", None)]
    bare.runtime.close()
    place.round()
    assert len(place.titles()) == 1


# Silences, reminders


def test_what_is_silenced_is_written_down_and_told_afterwards(place: Place) -> None:
    account = place.seller()
    with database.transaction(place.runtime.db) as tx:
        until = database.clock(tx) + timedelta(minutes=10)
        state.silence(tx, rule=None, subject=str(account), until=until, reason="known")
    place.loses(account)
    place.rounds(5)
    assert place.titles() == []
    assert len(place.rows("SELECT * FROM alerts WHERE opened_at IS NOT NULL")) == 1
    place.later("10 min")
    place.round()
    assert len(place.titles()) == 1


def test_what_stays_wrong_is_reminded_of(place: Place) -> None:
    place.loses(place.seller())
    place.round()
    place.later("59 min")
    place.round()
    assert len(place.titles()) == 1
    place.later("1 min")
    place.round()
    assert place.titles()[-1].startswith("[still critical] token_lost")


def test_what_is_over_for_long_is_forgotten(place: Place) -> None:
    account = place.seller()
    place.loses(account)
    place.round()
    place.reconnects(account)
    place.rounds(7)
    place.later("401 days")
    place.round("thorough")
    assert place.rows("SELECT * FROM alerts") == []


def test_a_channel_that_is_set_no_more_is_forgotten_after_a_day(place: Place) -> None:
    place.change("INSERT INTO alert_channels (channel, failures, tried_at) VALUES ('9-slack', 4, now())")
    place.round()
    assert place.rows("SELECT * FROM alerts") == []
    place.later("25 h")
    place.round("thorough")
    assert place.rows("SELECT * FROM alert_channels") == []


# The worker and the scheduler


class Broker:
    """Carries each message to the worker's task at once."""

    def __init__(self, place: Place) -> None:
        self.place, self.sent = place, list[str]()

    def send_task(self, name: str, *, kwargs: dict[str, str], **_: object) -> None:
        self.sent.append(name)
        if name == "watch":
            watch.work(self.place.runtime, kwargs["kind"])  # type: ignore[arg-type]


def test_the_scheduler_rings_for_rounds_and_a_worker_does_them_again_and_again(place: Place) -> None:
    broker: Any = Broker(place)
    place.change("DELETE FROM watches")
    place.loses(place.seller())
    worker.tick(place.runtime, broker, wake=False)
    assert broker.sent == []  # nobody has begun to look
    worker.tick(place.runtime, broker, wake=False, look=True)
    assert sorted(broker.sent) == ["watch"] * 3
    assert [title.split()[1] for title in place.titles()] == ["token_lost"]
    worker.tick(place.runtime, broker, wake=False, look=True)
    assert len(broker.sent) == 3
    place.change("UPDATE watches SET due_at = due_at - interval '1 min'")
    worker.tick(place.runtime, broker, wake=False, look=True)
    assert len(broker.sent) == 4


def test_a_round_ends_with_when_the_next_one_is_due(place: Place) -> None:
    place.round()
    with database.transaction(place.runtime.db) as tx:
        row = tx.execute(sa.select(watches).where(watches.c.kind == "quick")).one()
        assert due.claim(tx, watches, {"kind": "quick"}, lease=watch.LEASE) is None
    assert timedelta(seconds=50) < row.due_at - row.looked_at <= timedelta(seconds=60)
    assert row.leased_until is None


def test_a_database_that_goes_away_while_a_round_looks_is_known_by_name(place: Place) -> None:
    place.change("ALTER TABLE watches RENAME TO elsewhere")
    with pytest.raises(sa.exc.ProgrammingError):
        watch.work(place.runtime, "quick")
    place.change("ALTER TABLE elsewhere RENAME TO watches")
    away = with_channels(place.runtime.settings.model_copy(update={"database_url": "postgresql://n@127.0.0.1:9/none"}))
    with pytest.raises(DatabaseUnavailableError):
        watch.work(away, "quick")
    away.close()


# What nobody may read


def test_no_alert_and_no_line_holds_a_name_an_order_or_an_address_of_a_channel(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    account = place.seller()
    body = b'{"id":"k4n4r3k-order","buyer":{"login":"k4n4r3k"}}'
    with database.transaction(place.runtime.db) as tx:
        archive.record(tx, place.runtime.codec, account, [changes.read(database.clock(tx), body)], cause="test")
    place.change(
        "UPDATE syncs SET failures = 9, last_error = 'k4n4r3k Bearer eyJ', succeeded_at = now() - interval '2 h'"
    )
    place.change(
        """INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at, failures, last_error, set_aside_at)
           VALUES (:id, 'k4n4r3k', 'event', now(), now(), 5, 'k4n4r3k', now())""",
        id=account,
    )
    place.receivers[1].answers(500, b"k4n4r3k")
    with capture_logs() as logs:
        place.rounds(6)
        place.round("thorough")
    said = [*map(str, place.messages()), str(place.rows("SELECT * FROM alerts")), str(logs)]
    said += [str(place.rows("SELECT * FROM alert_channels")), gauges.exposition(place.runtime).decode()]
    assert len(place.titles()) >= 3
    for one in said:
        assert "k4n4r3k" not in one
        assert "eyJ" not in one
        assert "s3cr3t" not in one
    assert [record for record in caplog.records if record.name.startswith("apprise")] == []
    assert "s3cr3t" not in repr(place.runtime)
    assert all(b"s3cr3t" not in got.body for got in place.receivers[0].got)
    assert msgspec.json.decode(place.receivers[0].got[0].body)["attachments"] == []
