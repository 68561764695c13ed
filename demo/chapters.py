"""The chapters of the demo's story, one function each, in the order they are told."""

import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from demo import proof
from demo.stage import Stage, StoryError, Web
from demo.teller import Teller

SELLER = "99000001"
SCOPES = "accounts:read,accounts:write,sync,orders:read"
SETTLED = 30.0
"""Seconds that the service leaves to Allegro before a sweep looks at a purchase, and a little more below."""
TIME_TO_CLICK = 8.0
GONE = "null"
REFRESHED_EVERY = 0.25


@dataclass(slots=True)
class Story:
    """What the chapters hand on to each other."""

    stage: Stage
    tell: Teller
    is_once: bool
    wanted: int
    service_url: str
    allegro_url: str
    allegro: Web
    backup: Web = field(init=False)
    key: str = ""
    account_id: str = ""
    cursor: str = ""
    lost_id: str = ""
    lost_at: float = 0.0
    figures: list[tuple[str, str]] = field(default_factory=list)

    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = self.backup.get(f"/api/v1/accounts/{self.account_id}")
        return found

    def order(self, order_id: str, **parameters: str) -> dict[str, Any]:
        found: dict[str, Any] = self.backup.get(f"/api/v1/orders/{order_id}", account_id=self.account_id, **parameters)
        return found

    def holds(self, order_id: str) -> bool:
        return self.backup.status(f"/api/v1/orders/{order_id}?account_id={self.account_id}") == 200

    def happens(self, verb: str, **arguments: object) -> Any:
        """Something happens at the simulated Allegro."""
        return self.allegro.post(f"/_simulator/{verb}", **arguments)

    def news(self) -> list[dict[str, Any]]:
        """What the change feed has that we have not read yet."""
        parameters = {"account_id": self.account_id, "limit": 1000} | ({"cursor": self.cursor} if self.cursor else {})
        page = self.backup.get("/api/v1/changes", **parameters)
        self.cursor = page["next_cursor"]
        found: list[dict[str, Any]] = page["items"]
        return found + self.news() if page["has_more"] else found

    def arrival(self, order_id: str, what: str) -> dict[str, Any]:
        """The newest change of this order, once there is a new one."""
        found = self.stage.until(lambda: [change for change in self.news() if change["order_id"] == order_id], what)
        return found[-1]


def start(story: Story) -> None:
    story.tell.chapter("What starts")
    port = story.allegro_url.rpartition(":")[2]
    story.stage.start("allegro-simulator", "--port", port, "--orders", story.wanted, "--device-interval", 1)
    story.stage.until(lambda: story.allegro.status("/_simulator/sellers") == 200, "the simulator answers")
    story.tell.done(f"Simulated Allegro   {story.allegro_url}   a seller with {story.wanted:,} orders")
    port = story.service_url.rpartition(":")[2]
    arguments = ["--port", port, "--data-dir", story.stage.folder]
    service = story.stage.start("orders-backup", "up", *arguments, **_settings(story))
    service_web = Web.at(story.service_url)
    story.stage.until(lambda: service_web.status("/readyz") == 200, "the service is ready", within=120)
    for line in service.log.read_text(errors="replace").splitlines():
        if " on 127.0.0.1:" in line:
            story.tell.done(line.rstrip("."))
    story.tell.done(f"API, worker and scheduler   {story.service_url}")
    place = ["--data-dir", story.stage.folder]
    story.key = story.stage.ask(
        "orders-backup", "keys", "create", "--name", "demo", "--scopes", SCOPES, *place, **_settings(story)
    )
    story.backup = Web.at(story.service_url, **{"X-API-Key": story.key})


def _settings(story: Story) -> dict[str, str]:
    """The shipped defaults, but for a quick journal and a quick device flow."""
    return {
        "ALLEGRO_API_URL": story.allegro_url,
        "ALLEGRO_AUTH_URL": story.allegro_url,
        "ALLEGRO_CLIENT_ID": "simulator",
        "ALLEGRO_CLIENT_SECRET": "simulator-secret",
        "RATE_LIMIT_AUTH": "60",
        "EVENTS_INTERVAL": "2",
    }


def connect(story: Story) -> None:
    story.tell.chapter("The seller agrees")
    # Orders alone: their figures would drown among the calls for what lies beside them.
    account = story.backup.post("/api/v1/accounts", user_id=str(uuid.uuid4()), name="Demo shop", extras=[])
    story.account_id, code = account["id"], account["user_code"]
    story.tell.line(f"Link   [link]{account['verification_uri_complete']}[/link]")
    story.tell.line(f"Code   [code]{code}[/code]")
    if not story.is_once and sys.stdout.isatty():
        story.tell.aside(f"Open the link and agree; in {TIME_TO_CLICK:.0f} seconds the demo does it for you.")
        with suppress(StoryError):
            story.stage.until(lambda: story.account()["status"] == "active", "somebody agrees", within=TIME_TO_CLICK)
    began = time.monotonic()
    if story.account()["status"] == "pending":
        story.happens("approves", user_code=code, seller_id=SELLER)
    story.stage.until(lambda: story.account()["status"] == "active", "the account is connected")
    login = story.account()["seller_login"]
    story.tell.done(f"Connected as {login}, {time.monotonic() - began:.1f} s after the seller agreed")


def load_history(story: Story) -> None:
    """The backfill; while it runs, a purchase whose event Allegro loses."""
    story.tell.chapter("Twelve months of history")
    begun = story.stage.until(lambda: _run(story, "backfill"), "the backfill begins")
    run = _watch(story, begun["id"], between=lambda: _lose_a_purchase(story))
    fewest = ceil(run["expected"] / 100)
    story.tell.done(f"{run['calls']} calls to Allegro; in pages of 100 it cannot be done with fewer than {fewest}")
    story.figures.append(("Calls for the history", f"{run['calls']}, the fewest possible is {fewest}"))
    _lose_a_purchase(story)
    story.stage.until(lambda: story.account()["last_synced_at"], "the journal was read")
    story.news()


def _run(story: Story, kind: str) -> dict[str, Any] | None:
    runs = story.backup.get(f"/api/v1/accounts/{story.account_id}/syncs")["items"]
    return next((run for run in runs if run["kind"] == kind and run["status"] != "queued"), None)


def _watch(
    story: Story, run_id: str, *, total: int | None = None, between: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Follows a run to its end with a progress bar; the finished run. `total`: how many orders, else Allegro's word."""
    began = time.monotonic()
    with story.tell.progress("orders") as advance:

        def look() -> dict[str, Any] | None:
            run: dict[str, Any] = story.backup.get(f"/api/v1/syncs/{run_id}")
            expected = run["expected"] if total is None or run["finished_at"] else total
            if expected is not None:
                elapsed = max(time.monotonic() - began, 0.1)
                advance(min(run["listed"], expected), expected, run["listed"] / elapsed)
            between()
            return run if run["finished_at"] else None

        run = story.stage.until(look, "the run ends", within=600, every=REFRESHED_EVERY)
    if run["status"] != "succeeded":
        raise StoryError(f"The {run['kind']} run failed: {run['error']}")
    return run


def _lose_a_purchase(story: Story) -> None:
    """Once, after the journal was read for the first time: somebody buys, and the journal never tells."""
    if story.lost_id or story.account()["last_synced_at"] is None:
        return
    story.happens("loses_event", seller_id=SELLER)
    story.lost_id, story.lost_at = story.happens("buys", seller_id=SELLER), time.monotonic()


def follow_a_purchase(story: Story) -> str:
    story.tell.chapter("A purchase, as it happens")
    order_id: str = story.happens("buys", seller_id=SELLER)
    rows = [_stored(story, order_id, "buys")]
    for verb, words in (("fills_in", "fills in the form"), ("pays", "pays")):
        story.happens(verb, form_id=order_id)
        rows.append(_stored(story, order_id, words))
    story.tell.table(["At Allegro the buyer", "Our version", "After", "What changed"], rows)
    before = len(_events(story, order_id))
    story.happens("duplicates_event", seller_id=SELLER)
    story.stage.until(lambda: len(_events(story, order_id)) > before, "the repeated event is stored")
    story.stage.until(lambda: story.account()["owed"] == 0, "the order is read again")
    if (version := story.order(order_id)["version"]) != len(rows):
        raise StoryError(f"A repeated event made version {version} of the order {order_id}.")
    story.tell.done("Allegro repeats an event: order read again, same bytes, so no new version")
    return order_id


def _stored(story: Story, order_id: str, words: str) -> list[str]:
    """A row about the change that this brought."""
    began = time.monotonic()
    change = story.arrival(order_id, f"we hear that the buyer {words}")
    kinds = ", ".join(kind.removeprefix("order.").removesuffix("_changed") for kind in change["kinds"])
    return [words, str(change["version"]), f"{time.monotonic() - began:.1f} s", kinds]


def _events(story: Story, order_id: str) -> list[Any]:
    path = f"/api/v1/orders/{order_id}/events"
    items: list[Any] = story.backup.get(path, account_id=story.account_id)["items"] if story.holds(order_id) else []
    return items


def cancel(story: Story, order_id: str) -> None:
    story.tell.chapter("The buyer cancels: Allegro forgets the address, we keep it")
    story.happens("cancels", form_id=order_id)
    story.arrival(order_id, "we hear of the cancellation")
    path = f"/api/v1/orders/{order_id}/versions"
    versions = story.backup.get(path, account_id=story.account_id, fields="full")["items"][-2:]
    before, after = versions
    rows = [[str(one["version"]), one["order_data"]["status"], _address(one["order_data"])] for one in versions]
    story.tell.table(["No.", "Status", "Delivery address (invented)"], rows)
    at = _between(before["read_at"], after["read_at"])
    if _address(after["order_data"]) != GONE or _address(story.order(order_id, at=at)["order_data"]) == GONE:
        raise StoryError(f"The address of the cancelled order {order_id} was not kept.")
    story.tell.done(f"GET /orders/{order_id[:8]}…?at={at} still tells it")


def _address(document: dict[str, Any]) -> str:
    address = (document["delivery"] or {}).get("address")
    if address is None:
        return GONE
    return f"{address['firstName']} {address['lastName']}, {address['street']}, {address['city']}"


def _between(before: str, after: str) -> str:
    """A moment from the first to before the second: the next whole second, if that is one."""
    second = datetime.fromisoformat(before).replace(microsecond=0) + timedelta(seconds=1)
    return _short(second.isoformat()) if second < datetime.fromisoformat(after) else before


def _short(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%dT%H:%M:%SZ}"


def merge(story: Story) -> None:
    story.tell.chapter("Two orders become one")
    first = story.happens("buys", seller_id=SELLER)
    second = story.happens("buys", seller_id=SELLER, buyer_of=first)
    story.stage.until(lambda: story.holds(first) and story.holds(second), "both purchases are stored")
    login = story.order(first)["buyer_login"]
    new_id = story.happens("merges", form_a=first, form_b=second)
    story.stage.until(
        lambda: all(story.order(old)["superseded_by"] == new_id for old in (first, second)), "the merge is understood"
    )
    story.tell.line(f"{first[:8]}… and {second[:8]}… of {login} are {new_id[:8]}… from now on.")
    story.tell.done("Allegro answers 404 to the old ids; we keep both and name their successor")


def sweep(story: Story) -> None:
    story.tell.chapter("An event that never came")
    ago = time.monotonic() - story.lost_at
    story.tell.line(f"{ago:.0f} s ago somebody bought, and Allegro's journal never told. It happens.")
    by_chance = story.holds(story.lost_id)
    with story.tell.waiting("The sweep leaves Allegro 30 s to finish writing a purchase"):
        time.sleep(max(0.0, SETTLED + 2 - ago))
    run = story.backup.post(f"/api/v1/accounts/{story.account_id}/syncs", kind="reconcile")
    run = _watch(story, run["id"], total=story.account()["orders"])
    windows = _certificate(story)["windows"]
    caught = [window for window in windows if window["found_missing"]]
    if not story.holds(story.lost_id):
        raise StoryError(f"The sweep did not find the order {story.lost_id} whose event was lost.")
    if by_chance or not caught:
        story.tell.done("A list page that was read for another reason had already brought it")
    for window in caught:
        span = f"{window['window_from'][:10]} to {window['window_to'][:10]}"
        counts = f"{window['listed']} listed, [good]{window['found_missing']} found missing[/good]"
        story.tell.done(f"{span}: {counts}, and stored")
    fewest = sum(max(1, ceil((window["listed"] or 0) / 100)) for window in windows)
    story.tell.done(f"{len(windows)} windows, order by order, in {run['calls']} calls; the fewest possible is {fewest}")
    story.figures.append(("Calls for the sweep", f"{run['calls']}, the fewest possible is {fewest}"))


def _certificate(story: Story) -> dict[str, Any]:
    found: dict[str, Any] = story.backup.get(f"/api/v1/accounts/{story.account_id}/completeness")
    return found


def certify(story: Story) -> bool:
    story.tell.chapter("The certificate")
    story.stage.until(lambda: story.account()["owed"] == 0, "everything that was named has been read")
    found = _certificate(story)
    counts = {name: found[name] for name in ("listed", "stored", "missing", "superseded", "set_aside")}
    story.tell.line(f"{_short(found['covers_from'])} to {_short(found['covers_to'])}")
    story.tell.line("   ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))
    if found["complete"]:
        story.tell.done("[good]COMPLETE[/good]: Allegro's list holds no order that we do not hold")
    else:
        for question in found["open_questions"]:
            story.tell.failed(f"open: {question}")
    return bool(found["complete"])


def compare(story: Story) -> bool:
    story.tell.chapter("The proof")
    _quiet(story)
    began = time.monotonic()
    with story.tell.progress("orders") as advance:
        verdict = proof.prove(
            story.backup,
            story.allegro,
            story.account_id,
            SELLER,
            lambda done, of: advance(done, of, done / max(time.monotonic() - began, 0.1)),
        )
    if verdict.differences:
        for difference in verdict.differences[:20]:
            story.tell.failed(difference)
        story.tell.failed(f"{len(verdict.differences)} differences from what Allegro served")
    else:
        story.tell.done(
            f"[good]PROVEN[/good]: {verdict.orders:,} orders, {verdict.versions:,} versions, byte for byte as Allegro"
            " served them"
        )
    story.figures[:0] = [
        ("Orders", f"{verdict.orders:,}"),
        ("Versions", f"{verdict.versions:,}"),
        ("Bytes per version", f"{verdict.size // max(verdict.versions, 1):,} as Allegro serves it"),
    ]
    return not verdict.differences


def _quiet(story: Story) -> None:
    """Until the journal was read to its end once more since the last thing that happened."""
    before = story.account()["last_synced_at"]

    def is_level() -> bool:
        account = story.account()
        is_newer: bool = account["last_synced_at"] > before
        return is_newer and account["owed"] == 0

    story.stage.until(is_level, "the journal is read to its end")


def summarize(story: Story, seconds: float) -> None:
    calls = story.allegro.get("/_simulator/calls")
    refused = sum(one["count"] for one in calls["counts"] if one["status"] == 429)
    story.figures += [
        ("Calls to Allegro in all", f"{calls['total']:,}, refused with 429: {refused}"),
        ("Most in any 60 s", f"{calls['worst_window']:,} of the 9,000 that Allegro allows"),
        ("Seconds", f"{seconds:.0f}"),
    ]
    story.tell.chapter("Figures")
    story.tell.figures(story.figures)
