"""The event journal: identifiers, cursor, retention, losses, duplicates and their order."""

from typing import Any

import httpx
import pytest

from allegro_simulator import times
from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import linked_client
from allegro_simulator.world import World


def read(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/order/events", params=query).raise_for_status().json()["events"]
    return found


def latest(client: httpx.Client) -> str:
    found: str = client.get("/order/event-stats").json()["latestEvent"]["id"]
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_ids_are_rising_microseconds_of_insertion(client: httpx.Client, clock: Clock) -> None:
    events = read(client, limit=1000)
    ids = [int(event["id"]) for event in events]
    assert len(events) > 50
    assert ids == sorted(set(ids))
    lags = [int(event["id"]) / 1e6 - (times.parsed(event["occurredAt"]) or 0) / 1e3 for event in events]
    assert min(lags) >= 10.9
    assert sum(lag < 20.5 for lag in lags) > len(lags) * 0.9
    assert {len(event["id"]) for event in events} == {16}
    assert ids[-1] < clock.now.timestamp() * 1e6


def test_the_past_is_as_untidy_as_life(client: httpx.Client) -> None:
    events = read(client, limit=1000)
    occurred = [event["occurredAt"] for event in events]
    assert occurred != sorted(occurred)
    assert len({(e["order"]["checkoutForm"]["id"], e["type"], e["occurredAt"]) for e in events}) < len(events)
    assert {"BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING", "FULFILLMENT_STATUS_CHANGED"} <= set(kinds(events))


def test_from_is_exclusive_and_reads_on(client: httpx.Client) -> None:
    whole = read(client, limit=1000)
    paged: list[dict[str, Any]] = []
    cursor = "0"
    while page := read(client, limit=7, **{"from": cursor}):
        paged += page
        cursor = page[-1]["id"]
    assert paged == whole
    assert read(client, **{"from": whole[-1]["id"]}) == []
    assert read(client, limit=1, **{"from": str(int(whole[3]["id"]) - 1)}) == [whole[3]]


def test_without_from_the_oldest_hundred_come_first(client: httpx.Client) -> None:
    whole = read(client, limit=1000)
    assert read(client) == read(client, **{"from": "0"}) == whole[:100]


@pytest.mark.parametrize(
    ("limit", "sentence"), [("1001", "less than or equal to 1000"), ("0", "greater"), ("x", "number")]
)
def test_a_limit_out_of_range_is_refused(client: httpx.Client, limit: str, sentence: str) -> None:
    answer = client.get("/order/events", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "limit"
    assert sentence in answer.json()["errors"][0]["message"]


def test_a_moment_is_no_cursor(client: httpx.Client) -> None:
    assert client.get("/order/events", params={"from": "2026-07-01T00:00:00Z"}).status_code == 422


def test_types_filter_and_unknown_parameters_do_nothing(client: httpx.Client) -> None:
    whole = read(client, limit=1000)
    asked = [("type", "BOUGHT"), ("type", "FILLED_IN"), ("limit", "1000"), ("occurredAt.gte", "2030-01-01T00:00:00Z")]
    found = client.get("/order/events", params=tuple(asked)).json()["events"]
    assert found == [event for event in whole if event["type"] in {"BOUGHT", "FILLED_IN"}]
    assert read(client, type="BOUGHT", limit=3) == [event for event in whole if event["type"] == "BOUGHT"][:3]


def test_sixty_days_are_kept(client: httpx.Client, clock: Clock) -> None:
    whole = read(client, limit=1000)
    clock.forward(days=20)
    oldest = clock.now.timestamp() - 60 * 86_400
    kept = [event for event in whole if int(event["id"]) / 1e6 >= oldest]
    assert 0 < len(kept) < len(whole)
    assert read(client, limit=1000) == read(client, limit=1000, **{"from": whole[0]["id"]}) == kept
    assert latest(client) == whole[-1]["id"]
    clock.forward(days=41)
    assert read(client, limit=1000) == []
    assert client.get("/order/event-stats").json() == {"latestEvent": None}


def test_an_event_is_seen_only_after_the_lag(clock: Clock) -> None:
    world = World(clock=clock, event_lag=15)
    seller = world.add_seller(20)
    with linked_client(world, seller.id) as client:
        before = latest(client)
        form = world.buys(seller.id)
        bought = times.text(times.milliseconds(clock.now))
        clock.forward(seconds=14.9)
        assert read(client, **{"from": before}) == []
        assert client.get(f"/order/checkout-forms/{form}").status_code == 200
        clock.forward(seconds=0.1)
        (event,) = read(client, **{"from": before})
    assert event["occurredAt"] == bought
    assert int(event["id"]) == times.microseconds(clock.now)


def test_a_lost_event_comes_back_late_under_a_new_id(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    before = latest(client)
    world.loses_event(seller.id)
    form = world.buys(seller.id)
    bought = times.text(times.milliseconds(clock.now))
    clock.forward(hours=7)
    world.fills_in(form)
    assert kinds(read(client, **{"from": before})) == ["FILLED_IN"]
    (restored,) = world.replays_late(seller.id)
    last = read(client, **{"from": before})[-1]
    assert (last["id"], last["type"], last["occurredAt"]) == (restored, "BOUGHT", bought)
    assert world.restores_lost_events(seller.id) == []


def test_something_silent_leaves_no_event(world: World, seller: Seller, client: httpx.Client) -> None:
    before = latest(client)
    form = world.buys(seller.id, silently=True)
    world.fills_in(form, silently=True)
    world.pays(form, silently=True)
    assert latest(client) == before
    assert client.get(f"/order/checkout-forms/{form}").json()["status"] == "READY_FOR_PROCESSING"


def test_a_duplicate_has_another_id_and_the_same_moment(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    before = latest(client)
    world.buys(seller.id)
    clock.forward(hours=7)
    world.duplicates_event(seller.id)
    first, second = read(client, **{"from": before})
    assert first.pop("id") < second.pop("id")
    assert first == second


def test_events_of_one_order_can_come_in_another_order(world: World, seller: Seller, client: httpx.Client) -> None:
    before = latest(client)
    form = world.reorders(seller.id)
    events = read(client, **{"from": before})
    assert {event["order"]["checkoutForm"]["id"] for event in events} == {form}
    assert sorted(kinds(events)) == ["BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING"]
    assert kinds(events) != ["BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING"]


def test_ids_rise_in_the_whole_world_even_while_the_clock_stands(world: World, seller: Seller) -> None:
    other = world.add_seller(10)
    for _ in range(30):
        world.buys(seller.id)
        world.buys(other.id)
    ids = [event.id for owner in (seller, other) for event in world.events(owner.id)]
    assert len(set(ids)) == len(ids)


def test_the_world_knows_which_events_were_handed_out(world: World, seller: Seller, client: httpx.Client) -> None:
    assert world.served_events(seller.id) == set()
    page = read(client, limit=5)
    assert world.served_events(seller.id) == {event["id"] for event in page}
    world.faults("truncated", path="/order/events")
    with pytest.raises(httpx.RemoteProtocolError):
        read(client, limit=10)
    assert len(world.served_events(seller.id)) == 5


def test_an_event_names_its_order_but_not_its_state(world: World, seller: Seller, client: httpx.Client) -> None:
    form = world.buys(seller.id)
    event = read(client, limit=1000)[-1]
    order = client.get(f"/order/checkout-forms/{form}").json()
    assert list(event) == ["id", "order", "type", "occurredAt"]
    assert list(event["order"]) == ["seller", "buyer", "lineItems", "checkoutForm", "marketplace"]
    assert event["order"]["checkoutForm"] == {"id": form, "revision": order["revision"]}
    assert event["order"]["seller"] == {"id": seller.id}
    assert event["order"]["buyer"]["login"] == order["buyer"]["login"]
    assert [line["id"] for line in event["order"]["lineItems"]] == [line["id"] for line in order["lineItems"]]
