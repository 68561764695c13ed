"""The demo's proof: what the backup holds against what the simulated Allegro served. Compares; believes nobody."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from demo.stage import Web

AT_ONCE = 8


@dataclass(slots=True)
class Held:
    """What the backup holds of one order: the hashes of its versions in the order they were read, and their bytes."""

    hashes: list[str] = field(default_factory=list)
    size: int = 0
    newest: bytes = b""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome; where `differences` is empty, it held. `size`: bytes of all versions, as Allegro served them."""

    orders: int
    versions: int
    size: int
    differences: list[str]


def prove(backup: Web, allegro: Web, account_id: str, seller_id: str, advance: Callable[[int, int], None]) -> Verdict:
    """Compares every order and version of the account with the simulator's truth. `advance(done, of)` tells how far."""
    truth: dict[str, dict[str, Any]] = allegro.get("/_simulator/truth", seller_id=seller_id)
    heads = {order["id"]: order["version"] for order in listed(backup, account_id)}
    stored = backup.get(f"/api/v1/accounts/{account_id}")["versions"]
    is_plain = stored == sum(heads.values())  # every order has as many versions as its newest one's number
    held: dict[str, Held] = {}
    found = list[str]()

    def look(order_id: str) -> tuple[Held, list[str]]:
        one, wrong = _fetched(backup, account_id, order_id, is_single=is_plain and heads[order_id] == 1)
        return one, wrong + _newest(allegro, order_id, truth.get(order_id), one)

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        waiting = {pool.submit(look, order_id): order_id for order_id in heads}
        for done, future in enumerate(as_completed(waiting), 1):
            held[waiting[future]], wrong = future.result()
            found += wrong
            advance(done, len(heads))
    finally:
        pool.shutdown(cancel_futures=True)
    versions = sum(len(one.hashes) for one in held.values())
    if versions != stored:
        found.append(f"the backup says it holds {stored} versions, and {versions} could be fetched")
    found += differences(truth, {order_id: one.hashes for order_id, one in held.items()})
    return Verdict(len(held), versions, sum(one.size for one in held.values()), sorted(found))


def listed(backup: Web, account_id: str) -> list[dict[str, Any]]:
    """The heads of all orders of the account."""
    found: list[dict[str, Any]] = []
    parameters: dict[str, object] = {"account_id": account_id, "fields": "summary", "limit": 1000}
    while True:
        page = backup.get("/api/v1/orders", **parameters)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        parameters["cursor"] = page["next_cursor"]


def differences(truth: Mapping[str, Mapping[str, Any]], held: Mapping[str, Sequence[str]]) -> list[str]:
    """Everything in which the backup differs from the truth, a sentence each. PURE.

    `truth`: the simulator's account of every order, where `served` are the SHA-256 of the bodies it handed out, in
    order, consecutive equal ones once; `held`: ours of each order, in the order they were read.
    """
    return [
        *(f"{order_id}: not in the backup" for order_id in _expected(truth) if order_id not in held),
        *(f"{order_id}: in the backup, but Allegro never had it" for order_id in held if order_id not in truth),
        *(
            f"{order_id}: {wrong}"
            for order_id, hashes in held.items()
            if order_id in truth and (wrong := _difference(truth[order_id], list(hashes)))
        ),
    ]


def _expected(truth: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Orders that were ever handed out, and those that could be: neither merged away nor beyond twelve months."""
    for order_id, told in truth.items():
        if told["served"] or not (told["gone"] or told["hidden"]):
            yield order_id


def _difference(told: Mapping[str, Any], hashes: list[str]) -> str | None:
    if hashes != told["served"]:
        return f"{len(hashes)} versions held, {len(told['served'])} served, and they are not the same"
    if not told["gone"] and not told["hidden"] and hashes[-1] != told["current"]:
        return "the newest version is not the one at Allegro"
    return None


def _fetched(backup: Web, account_id: str, order_id: str, *, is_single: bool) -> tuple[Held, list[str]]:
    """Every version of an order, fetched and hashed here, and those that are not the bytes of their own hash."""
    path, held, wrong = f"/api/v1/orders/{order_id}/versions", Held(), list[str]()
    numbers: dict[int, str | None] = {1: None}
    if not is_single:
        versions = backup.get(path, account_id=account_id, limit=1000)["items"]
        versions.sort(key=lambda version: (version["read_at"], version["version"]))
        numbers = {version["version"]: version["sha256"] for version in versions}
    for number, kept_under in numbers.items():
        held.newest = backup.octets(f"{path}/{number}", account_id=account_id)
        held.hashes.append(hashlib.sha256(held.newest).hexdigest())
        held.size += len(held.newest)
        if kept_under not in {None, held.hashes[-1]}:
            wrong.append(f"{order_id}: the bytes of version {number} are not those of its hash")
    return held, wrong


def _newest(allegro: Web, order_id: str, told: Mapping[str, Any] | None, held: Held) -> list[str]:
    """The newest version against the document at Allegro, byte by byte; a form that was merged away has none."""
    if told is None or told["gone"] or told["hidden"]:
        return []
    body, newest = allegro.octets("/_simulator/body", form_id=order_id), held.newest
    held.newest = b""
    return [] if body == newest else [f"{order_id}: the bytes of the newest version are not those at Allegro"]
