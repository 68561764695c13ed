"""What belongs to orders: kept byte for byte, asked for seldom, and never at the orders' cost."""

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.shop import Shop

from allegro_simulator.http import Request, Response
from orders_backup import db as database
from orders_backup.accounts import connect, queries
from orders_backup.budget import Priority
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.orders import extras, feed
from orders_backup.sync import extras as sync_extras
from orders_backup.sync import extras_plan, extras_state, state
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job

SHIPMENTS = "/order/checkout-forms/{id}/shipments"
INVOICES = "/order/checkout-forms/{id}/invoices"
RETURNS = "/order/customer-returns"
REFUNDS = "/payments/refunds"
ALL = (SHIPMENTS, INVOICES, RETURNS, REFUNDS)


@pytest.fixture
def small(make_shop: Callable[[int], Shop]) -> Shop:
    """A backfilled shop of 30 orders, nothing beside them kept yet."""
    shop = make_shop(30)
    shop.backfill()
    return shop


@pytest.fixture
def kept(small: Shop) -> Shop:
    """The same with everything beside the orders kept."""
    settle(small)
    assert differences(small) == []
    return small


def settle(shop: Shop) -> None:
    """Looks until nothing is due."""
    for _ in range(20):
        shop.look()
        if shop.value("SELECT due_at > clock_timestamp() + interval '1 s' FROM syncs WHERE kind = 'extras'"):
            return
    raise AssertionError("the extras job did not come to an end")


def later(shop: Shop) -> None:
    """So much time goes by that everything that was read is due again, and every kind has rested."""
    shop.change(
        "UPDATE order_extras SET due_at = clock_timestamp() - interval '1 s' WHERE kind IN ('shipments','invoices')"
    )
    shop.change("UPDATE extra_kinds SET all_at = NULL, off_until = NULL")


def calls(shop: Shop) -> Counter[str]:
    counted: Counter[str] = Counter()
    for (path, _), count in shop.world.counts.items():
        if path in ALL:
            counted[path] += count
    return counted


def bodies(shop: Shop, kind: str, document_id: str) -> list[bytes]:
    """Every version of a document by the moment it shows."""
    query = """SELECT dictionary_id, body FROM order_extra_versions WHERE account_id = :account AND kind = :kind
                  AND document_id = :id ORDER BY read_at, version"""
    rows = shop.rows(query, kind=kind, id=document_id)
    with database.transaction(shop.runtime.db) as tx:
        return [shop.runtime.codec.decompress(tx, row[0], row[1]) for row in rows]


def differences(shop: Shop) -> list[str]:
    """What is stored otherwise than it was served; empty when all is level."""
    found = []
    truth = shop.world.extras_truth(shop.seller_id)
    for (kind, document_id), told in truth.items():
        stored = [hashlib.sha256(body).hexdigest() for body in bodies(shop, kind, document_id)]
        if stored != told.served:
            found.append(f"{kind} {document_id}: stored {stored}, served {told.served}")
    stored_keys = {(row[0], row[1]) for row in shop.rows("SELECT kind, document_id FROM order_extra_versions")}
    return found + [f"{key} was never served" for key in stored_keys - truth.keys()]


def head(shop: Shop, kind: str, document_id: str) -> Any:
    query = "SELECT * FROM order_extras WHERE account_id = :account AND kind = :kind AND document_id = :id"
    return shop.rows(query, kind=kind, id=document_id)[0]


def paid(shop: Shop) -> str:
    """A paid order that the archive holds."""
    form = shop.world.buys(shop.seller_id)
    shop.world.pays(form)
    shop.follow()
    return form


def newest(shop: Shop, status: str = "READY_FOR_PROCESSING") -> str:
    query = "SELECT order_id FROM orders WHERE status = :status ORDER BY ordered_at DESC LIMIT 1"
    return str(shop.value(query, status=status))


def account(shop: Shop) -> queries.Account:
    with database.transaction(shop.runtime.db) as tx:
        return queries.get(tx, shop.account_id, seen_by=None)


def choose(shop: Shop, *kinds: str) -> None:
    with database.transaction(shop.runtime.db) as tx:
        connect.change(tx, shop.account_id, {"extras": list(kinds)})


def meddle(shop: Shop, path_ends: str, deed: Callable[[], None]) -> None:
    """Does something once, after Allegro has answered the first request of this kind and before the answer arrives."""
    handle = shop.world.handle
    done: list[bool] = []

    def meddling(request: Request) -> Response:
        answer = handle(request)
        if request.path.endswith(path_ends) and not done:
            done.append(True)
            deed()
        return answer

    shop.world.handle = meddling  # type: ignore[method-assign]


# What is kept


def test_everything_is_kept_byte_for_byte_with_one_call_a_paid_order_and_kind(small: Shop) -> None:
    small.world.returns(newest(small))
    small.world.refunds(newest(small))
    small.world.buys(small.seller_id)
    small.follow()
    settle(small)
    assert differences(small) == []
    ready = small.value("SELECT count(*) FROM orders WHERE status = 'READY_FOR_PROCESSING'")
    assert ready == small.value("SELECT count(*) FROM orders") - 1
    assert calls(small) == {SHIPMENTS: ready, INVOICES: ready, RETURNS: 1, REFUNDS: 1}
    kinds = {row[0] for row in small.rows("SELECT DISTINCT kind FROM order_extra_versions")}
    assert kinds == {"shipments", "invoices", "returns", "refunds"}


def test_the_same_bytes_make_no_new_version(kept: Shop) -> None:
    before = kept.value("SELECT count(*) FROM order_extra_versions")
    read_at = kept.value("SELECT min(read_at) FROM order_extras WHERE read_at IS NOT NULL")
    later(kept)
    settle(kept)
    assert kept.value("SELECT count(*) FROM order_extra_versions") == before
    assert kept.value("SELECT min(read_at) FROM order_extras WHERE read_at IS NOT NULL") > read_at


def test_another_tracking_number_is_a_new_version_and_shows_in_the_feed(kept: Shop) -> None:
    form = newest(kept)
    kept.world.changes_tracking(form)
    later(kept)
    settle(kept)
    assert differences(kept) == []
    assert len(bodies(kept, "shipments", form)) == 2
    query = "SELECT version, kinds, cause FROM order_changes WHERE order_id = :order ORDER BY seq DESC LIMIT 1"
    version = kept.value("SELECT version FROM orders WHERE order_id = :order", order=form)
    assert tuple(kept.rows(query, order=form)[0]) == (version, ["order.shipments_changed"], "extras")


def test_an_answer_with_nothing_in_it_is_kept_and_is_no_news(small: Shop) -> None:
    choose(small, "invoices")
    form = paid(small)
    settle(small)
    small.change("UPDATE order_extras SET due_at = clock_timestamp() WHERE document_id = :order", order=form)
    settle(small)
    assert b'"invoices":[]' in bodies(small, "invoices", form)[0]
    assert (
        small.value("SELECT count(*) FROM order_changes WHERE order_id = :order AND cause = 'extras'", order=form) == 0
    )


def test_a_return_and_a_refund_are_found_and_followed_to_their_end(kept: Shop) -> None:
    form = newest(kept)
    returned, refund = kept.world.returns(form), kept.world.refunds(form)
    kept.change("UPDATE extra_kinds SET recent_at = recent_at - interval '1 h'")
    settle(kept)
    kept.world.advances_return(returned)
    kept.world.settles_refund(refund)
    kept.change("UPDATE extra_kinds SET open_at = open_at - interval '1 d'")
    settle(kept)
    assert differences(kept) == []
    assert len(bodies(kept, "returns", returned)) == len(bodies(kept, "refunds", refund)) == 2
    assert head(kept, "returns", returned).order_id == form
    assert calls(kept)[RETURNS] == 3


def test_a_list_of_many_pages_is_read_to_its_end_across_slices(small: Shop) -> None:
    form = newest(small)
    for _ in range(230):
        small.world.refunds(form)
    choose(small, "refunds")
    small.world.faults("status", code=429, path=REFUNDS, times=1, retry_after=1)
    small.look()  # the client id is silent
    small.change("UPDATE request_budget SET silent_until = NULL")
    meddle(small, REFUNDS, lambda: small.change("UPDATE syncs SET lease_generation = lease_generation + 1"))
    small.look()  # the first page comes, and the lease is gone
    settle(small)
    assert differences(small) == []
    assert calls(small)[REFUNDS] == 5
    assert small.value("SELECT span FROM extra_kinds WHERE kind = 'refunds'") is None


def test_what_names_no_id_or_no_order_is_kept_all_the_same(kept: Shop) -> None:
    form = newest(kept)
    returned = kept.world.returns(form)
    strange = b'{"id":{"a":1},"orderId":null,"createdAt":"\xc5\xbb"}'
    kept.world.writes_extra(kept.seller_id, "returns", returned, strange)
    later(kept)
    settle(kept)
    document_id = f"sha256:{hashlib.sha256(strange).hexdigest()}"
    assert bodies(kept, "returns", document_id) == [strange]
    assert head(kept, "returns", document_id).order_id is None


# When


def test_an_order_is_looked_at_when_its_parcel_was_handed_over(kept: Shop) -> None:
    form = paid(kept)
    settle(kept)
    assert head(kept, "shipments", form).due_at - datetime.now(UTC) > timedelta(hours=23)
    kept.world.ships(form)
    kept.follow()
    settle(kept)
    wait = head(kept, "shipments", form).due_at - datetime.now(UTC)
    assert timedelta(minutes=9) < wait < timedelta(minutes=10)
    assert calls(kept)[SHIPMENTS] == kept.value("SELECT count(*) FROM order_extras WHERE kind = 'shipments'") - 1


def test_unpaid_cancelled_and_vanished_orders_are_not_asked_for(kept: Shop) -> None:
    form, other = kept.world.buys(kept.seller_id), kept.world.buys(kept.seller_id)
    cancelled = paid(kept)
    settle(kept)
    kept.world.cancels(cancelled)
    merged = kept.world.merges(form, other)
    kept.follow()
    before = calls(kept)
    settle(kept)
    assert calls(kept) == before
    assert head(kept, "shipments", cancelled).due_at is None
    unpaid = "SELECT count(*) FROM order_extras WHERE order_id IN (:a, :b, :c)"
    assert kept.value(unpaid, a=form, b=other, c=merged) == 0


def test_an_order_that_vanished_while_it_waited_costs_no_call(kept: Shop) -> None:
    form = paid(kept)
    settle(kept)
    kept.change("UPDATE orders SET gone_at = clock_timestamp() WHERE order_id = :order", order=form)
    kept.change("UPDATE order_extras SET due_at = clock_timestamp() WHERE document_id = :order", order=form)
    before = calls(kept)
    settle(kept)
    assert (calls(kept), head(kept, "shipments", form).due_at) == (before, None)


def test_history_comes_newest_first_and_after_what_is_due_now(small: Shop) -> None:
    choose(small, "shipments")
    asked: list[str] = []
    handle = small.world.handle

    def watching(request: Request) -> Response:
        if request.path.endswith("/shipments"):
            asked.append(request.path.split("/")[3])
        return handle(request)

    small.world.handle = watching  # type: ignore[method-assign]
    settle(small)
    rows = small.rows("SELECT order_id FROM orders WHERE status = 'READY_FOR_PROCESSING' ORDER BY ordered_at DESC")
    newest_first = [str(row[0]) for row in rows]
    fours = [set(asked[place : place + 4]) for place in range(0, len(asked), 4)]
    assert fours == [set(newest_first[place : place + 4]) for place in range(0, len(newest_first), 4)]


def test_nothing_is_asked_for_before_the_history_of_orders_is_there(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(5)
    shop.look()
    assert calls(shop) == {}
    assert shop.value("SELECT failures FROM syncs WHERE kind = 'extras'") == 0


def test_a_kind_that_is_chosen_later_is_kept_of_every_order(small: Shop) -> None:
    choose(small, "shipments")
    settle(small)
    choose(small, "shipments", "invoices")
    settle(small)
    of_kind = {row[0]: row[1] for row in small.rows("SELECT kind, count(*) FROM order_extra_versions GROUP BY 1")}
    assert of_kind["invoices"] == of_kind["shipments"] > 0
    assert set(calls(small)) == {SHIPMENTS, INVOICES}


def test_who_wants_nothing_of_it_pays_nothing_for_it(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(5)
    choose(shop)
    shop.backfill()
    shop.look()
    assert calls(shop) == {}
    assert shop.rows("SELECT kind FROM syncs WHERE kind = 'extras'") == []


def test_a_paused_account_is_not_asked_for_and_wakes_where_it_was(kept: Shop) -> None:
    form = newest(kept)
    kept.world.changes_tracking(form)
    later(kept)
    with database.transaction(kept.runtime.db) as tx:
        connect.change(tx, kept.account_id, {"paused": True})
    before = calls(kept)
    kept.look()
    assert calls(kept) == before
    assert kept.value("SELECT due_at IS NULL FROM syncs WHERE kind = 'extras'")
    with database.transaction(kept.runtime.db) as tx:
        connect.change(tx, kept.account_id, {"paused": False})
        state.wake(tx)
    settle(kept)
    assert differences(kept) == []


# The budget


def test_without_budget_it_waits_and_the_orders_do_not(kept: Shop) -> None:
    later(kept)
    kept.change("UPDATE request_budget SET full_at = clock_timestamp() + interval '1 h' WHERE key LIKE '%extras'")
    before = calls(kept)
    kept.look()
    assert calls(kept) == before
    row = kept.rows("SELECT failures, due_at > clock_timestamp() + interval '1 s' FROM syncs WHERE kind = 'extras'")[0]
    assert tuple(row) == (0, True)
    form = kept.world.buys(kept.seller_id)
    kept.follow()
    assert kept.versions(form) == [kept.world.body(form)]


def test_it_asks_as_the_least_urgent_of_all(kept: Shop) -> None:
    later(kept)
    kept.change("UPDATE request_budget SET own = '{}'")
    before = calls(kept).total()
    kept.look()
    assert calls(kept).total() > before
    drained = "SELECT string_agg(DISTINCT who, ' ') FROM request_budget, jsonb_object_keys(own) who"
    assert kept.value(drained) == min(Priority, key=lambda one: -one.value).name == "EXTRAS"


# Refusals and failures


def test_a_missing_scope_switches_its_kind_off_for_a_day_and_says_so(small: Shop) -> None:
    small.world.faults("status", code=403, body="json", path=REFUNDS, times=None)
    settle(small)
    small.change("UPDATE syncs SET due_at = clock_timestamp()")
    settle(small)
    assert calls(small)[REFUNDS] == 1
    assert calls(small)[SHIPMENTS] > 1
    shown = account(small)
    assert list(shown.extras_off) == ["refunds"]
    assert "lacks a right" in shown.extras_off["refunds"]
    assert (shown.last_error, small.value("SELECT failures FROM syncs WHERE kind = 'extras'")) == (None, 0)
    assert small.value("SELECT off_until - clock_timestamp() > interval '23 h' FROM extra_kinds WHERE kind = 'refunds'")
    small.world.clear_faults()
    small.change("UPDATE extra_kinds SET off_until = clock_timestamp() WHERE kind = 'refunds'")
    settle(small)
    assert differences(small) == []
    assert account(small).extras_off == {}


def test_one_order_that_is_denied_does_not_switch_its_kind_off(kept: Shop) -> None:
    form = newest(kept)
    alone = "UPDATE order_extras SET due_at = CASE WHEN document_id = :order THEN clock_timestamp() END"
    kept.change(alone, order=form)
    kept.world.faults("status", code=403, body="json", path=f"/order/checkout-forms/{form}/invoices", times=None)
    settle(kept)
    assert account(kept).extras_off == {}
    assert head(kept, "invoices", form).last_error is not None


def test_a_kind_that_is_denied_for_every_order_rests_and_the_others_go_on(small: Shop) -> None:
    small.world.faults("status", code=403, body="json", path="/order/checkout-forms/", times=None)
    choose(small, "shipments", "returns")
    settle(small)
    assert list(account(small).extras_off) == ["shipments"]
    assert calls(small)[SHIPMENTS] <= 8
    assert calls(small)[RETURNS] == 1


def test_what_allegro_does_not_have_is_no_failure(kept: Shop) -> None:
    form = newest(kept)
    kept.world.faults("status", code=404, path=f"/order/checkout-forms/{form}/", times=None)
    later(kept)
    settle(kept)
    told = head(kept, "shipments", form)
    assert (told.version, told.failures, told.last_error) == (1, 0, None)
    assert account(kept).extras_off == {}


@pytest.mark.parametrize("fault", ["status", "reset", "truncated", "html"])
def test_an_outage_lets_the_kinds_rest_and_loses_nothing(small: Shop, fault: str) -> None:
    small.world.faults(fault, path="/order/checkout-forms/", times=None)
    small.world.faults(fault, path=RETURNS, times=None)
    small.world.faults(fault, path=REFUNDS, times=None)
    settle(small)
    assert set(account(small).extras_off) == {"shipments", "invoices", "returns", "refunds"}
    assert small.value("SELECT max(failures) FROM order_extras") == 0
    assert small.value("SELECT failures FROM syncs WHERE kind = 'extras'") == 0
    assert sum(calls(small).values()) <= 2 * 12
    small.world.clear_faults()
    later(small)
    settle(small)
    assert differences(small) == []
    ready = small.value("SELECT count(*) FROM orders WHERE status = 'READY_FOR_PROCESSING'")
    assert small.value("SELECT count(*) FROM order_extras WHERE version > 0 AND kind = 'shipments'") == ready


def test_an_order_that_fails_again_and_again_is_asked_for_once_a_month(small: Shop) -> None:
    form = newest(small)
    small.world.faults("status", code=500, path=f"/order/checkout-forms/{form}/shipments", times=None)
    for _ in range(extras_plan.GIVE_UP_AFTER):
        settle(small)
        later(small)
    small.change("UPDATE order_extras SET due_at = NULL WHERE document_id <> :order", order=form)
    settle(small)
    told = head(small, "shipments", form)
    assert (told.failures >= extras_plan.GIVE_UP_AFTER, told.version) == (True, 0)
    assert told.due_at - datetime.now(UTC) > timedelta(days=29)
    small.world.clear_faults()
    later(small)
    settle(small)
    assert head(small, "shipments", form).failures == 0
    assert differences(small) == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"shipments":[{"waybill":"\\u0000 \\ud83d","carrierId":1e999}]}',
        b'{"shipments":[{"waybill":"\xff\xfe"}]}',
        b'{"shipments":[{"waybill":"\x00"}]}',
        b'{"shipments":null}',
        b' {"shipments" : [ ] , "more": {"shipments": [1]}} ',
        b'{"shipments":[' + b"[" * 2000 + b"]" * 2000 + b"]}",
    ],
    ids=["surrogate", "not UTF-8", "NUL", "null", "spaces", "deep"],
)
def test_strange_documents_are_kept_as_they_came(kept: Shop, body: bytes) -> None:
    form = newest(kept)
    kept.world.writes_extra(kept.seller_id, "shipments", form, body)
    later(kept)
    settle(kept)
    assert bodies(kept, "shipments", form)[-1] == body
    assert differences(kept) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"not JSON",
        b"<html>",
        b'{"errors":[]}',
        b'{"shipments":[',
        b'{"shipments":7}',
        b'{"shipments":["' + b"x" * 5_000_000 + b'"]}',
    ],
    ids=["empty", "null", "array", "text", "HTML", "other", "cut off", "number", "huge"],
)
def test_what_is_no_document_is_refused_and_asked_for_again(kept: Shop, body: bytes) -> None:
    form = newest(kept)
    before = bodies(kept, "shipments", form)
    kept.world.writes_extra(kept.seller_id, "shipments", form, body)
    later(kept)
    settle(kept)
    told = head(kept, "shipments", form)
    assert bodies(kept, "shipments", form) == before
    assert (told.failures, told.last_error is not None, told.due_at is not None) == (1, True, True)
    assert account(kept).extras_off == {}


def test_a_page_that_comes_again_and_again_ends_the_list(small: Shop) -> None:
    for _ in range(100):
        small.world.refunds(newest(small))
    choose(small, "refunds")
    handle = small.world.handle

    def without_offset(request: Request) -> Response:
        query = [(name, value) for name, value in request.query if name != "offset"]
        return handle(Request(request.method, request.path, query, request.headers, request.body))

    small.world.handle = without_offset  # type: ignore[method-assign]
    settle(small)
    assert calls(small)[REFUNDS] == 2
    assert "again" in account(small).extras_off["refunds"]


# Crashes


def test_who_lost_the_lease_during_a_call_writes_nothing_and_nothing_is_lost(small: Shop) -> None:
    choose(small, "shipments")
    meddle(small, "/shipments", lambda: small.change("UPDATE syncs SET lease_generation = lease_generation + 1"))
    small.look()
    assert small.value("SELECT count(*) FROM order_extra_versions") == 0
    settle(small)
    assert differences(small) == []


def test_a_database_that_is_away_after_the_call_loses_nothing(small: Shop) -> None:
    small.world.returns(newest(small))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :name"
    name = small.value("SELECT current_database()")
    meddle(small, "/shipments", lambda: small.change(cut, name=name))
    meddle(small, RETURNS, lambda: small.change(cut, name=name))
    for _ in range(2):
        with suppress(DatabaseUnavailableError):
            small.look()
    settle(small)
    assert differences(small) == []


# Late and doubled readings


def test_a_late_reading_is_kept_where_it_belongs_and_never_becomes_the_newest(kept: Shop) -> None:
    form = newest(kept)
    told, [now] = head(kept, "shipments", form), bodies(kept, "shipments", form)
    before = b'{"shipments":[]}' if b'"waybill"' in now else b'{"shipments":[1]}'

    def read(body: bytes, sent_at: datetime) -> None:
        late = extras.document("shipments", form, form, sent_at, body, found=False)
        with database.transaction(kept.runtime.db) as tx:
            extras.record(tx, kept.runtime.codec, kept.account_id, [late, late])

    read(before, told.read_at - timedelta(minutes=1))
    read(before, told.read_at - timedelta(minutes=1))
    read(now, told.read_at - timedelta(seconds=1))
    assert bodies(kept, "shipments", form) == [before, now]
    after = head(kept, "shipments", form)
    assert (after.version, after.versions, after.read_at, after.sha256) == (1, 2, told.read_at, told.sha256)
    assert (after.found, after.due_at) == (told.found, told.due_at)
    read(b'{"shipments":[2]}', told.read_at + timedelta(minutes=1))
    assert head(kept, "shipments", form).version == 3


def test_following_the_feed_twice_changes_nothing(kept: Shop) -> None:
    rows = kept.rows("SELECT * FROM order_extras ORDER BY kind, document_id")
    before = calls(kept)
    kept.change("UPDATE syncs SET cursor = NULL WHERE kind = 'extras'")
    settle(kept)
    assert kept.rows("SELECT * FROM order_extras ORDER BY kind, document_id") == rows
    assert calls(kept) == before


def test_the_job_does_not_count_as_a_sync_of_orders(kept: Shop) -> None:
    kept.change("UPDATE syncs SET failures = 3, last_error = 'x', due_at = '2020-01-01' WHERE kind = 'extras'")
    shown = account(kept)
    assert shown.last_error is None
    assert shown.next_sync_at is not None
    assert shown.next_sync_at > datetime(2021, 1, 1, tzinfo=UTC)


def test_a_dictionary_is_never_trained_on_what_lies_beside_orders(small: Shop) -> None:
    assert small.value("SELECT count(*) FROM codec_dictionaries") == 0
    for _ in range(60):
        small.world.returns(newest(small))
    settle(small)
    assert small.value("SELECT count(*) FROM codec_dictionaries") == 0
    assert differences(small) == []


class KilledError(BaseException):
    """The end of the process."""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many changes each page of our feed held; the process ends before one that would be the fifth."""
    read, page = list[int](), feed.page

    def counted(tx: Connection, **asked: Any) -> tuple[list[Any], feed.Position, bool]:
        if len(read) == 4:
            raise KilledError
        changes, after, has_more = page(tx, **asked)
        read.append(len(changes))
        return changes, after, has_more

    monkeypatch.setattr(feed, "page", counted)
    return read


def test_a_follow_that_is_killed_goes_on_where_it_was(
    small: Shop, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_extras, "FEED_PAGE", 5)
    with pytest.raises(KilledError):
        small.look()
    assert pages == [5, 5, 5, 5]
    pages.clear()
    small.look()
    assert pages == [5, 5]


def test_the_next_slice_of_a_turn_follows_no_page_again(small: Shop, pages: list[int]) -> None:
    def twice(job: Job) -> datetime:
        sync_extras._follow(job, {"shipments"})
        sync_extras._follow(job, {"shipments"})
        return job.now() + timedelta(hours=1)

    small._due_now()
    jobs.work(small.runtime, small.account_id, "extras", priority=Priority.EXTRAS, body=twice)
    assert pages == [30, 0]


def test_who_lost_his_list_to_another_asks_for_none_of_it(small: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = extras_state.begin_listing, list[str]()

    def begins(tx: Connection, account_id: UUID, kind: str, **asked: Any) -> None:
        begin(tx, account_id, kind, **asked)
        begun.append(kind)

    def taken_over_and_finished(*_: object) -> None:
        if begun:
            begun.clear()
            small.change("UPDATE syncs SET lease_generation = lease_generation + 1 WHERE kind = 'extras'")
            small.change("UPDATE extra_kinds SET span = NULL, since = NULL, until = NULL, all_at = clock_timestamp()")

    monkeypatch.setattr(extras_state, "begin_listing", begins)
    sa.event.listen(small.runtime.db, "checkin", taken_over_and_finished)
    small.look()
    assert calls(small) == {}
    assert small.value("SELECT count(*) FROM extra_kinds WHERE all_at IS NOT NULL") == 1
