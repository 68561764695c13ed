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
    """What the backup holds of one order: the hashes of its versions in the order they were read, and their sizes."""

    hashes: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome. `differences` empty: it held. `compared`: bodies fetched and hashed here; `size`: bytes of all versions."""

    orders: int
    versions: int
    compared: int
    size: int
    differences: list[str]


def prove(backup: Web, allegro: Web, account_id: str, seller_id: str, advance: Callable[[int, int], None]) -> Verdict:
    """Compares every order and version of the account with the simulator's truth. `advance(done, of)` tells how far."""
    truth: dict[str, dict[str, Any]] = allegro.get("/_simulator/truth", seller_id=seller_id)
    ids = [order["id"] for order in listed(backup, account_id)]
    held: dict[str, Held] = {}
    compared, found = 0, list[str]()

    def look(order_id: str) -> tuple[Held, int, list[str]]:
        return _look(backup, allegro, account_id, order_id, truth.get(order_id))

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        waiting = {pool.submit(look, order_id): order_id for order_id in ids}
        for done, future in enumerate(as_completed(waiting), 1):
            one, bodies, wrong = future.result()
            held[waiting[future]] = one
            compared += bodies
            found += wrong
            advance(done, len(ids))
    finally:
        pool.shutdown(cancel_futures=True)
    found += differences(truth, {order_id: one.hashes for order_id, one in held.items()})
    versions = sum(len(one.hashes) for one in held.values())
    return Verdict(len(held), versions, compared, sum(sum(one.sizes) for one in held.values()), sorted(found))


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


def _look(
    backup: Web, allegro: Web, account_id: str, order_id: str, told: Mapping[str, Any] | None
) -> tuple[Held, int, list[str]]:
    """One order: every version fetched and hashed, how many these were, and what was wrong with their bytes."""
    path = f"/api/v1/orders/{order_id}/versions"
    versions = backup.get(path, account_id=account_id, limit=1000)["items"]
    versions.sort(key=lambda version: (version["read_at"], version["version"]))
    wrong, body = [], b""
    for version in versions:
        body = backup.octets(f"{path}/{version['version']}", account_id=account_id)
        if hashlib.sha256(body).hexdigest() != version["sha256"] or len(body) != version["size"]:
            wrong.append(f"{order_id}: the bytes of version {version['version']} are not those of its hash")
    if told is not None and not told["gone"] and body != allegro.octets("/_simulator/body", form_id=order_id):
        wrong.append(f"{order_id}: the bytes of the newest version are not those at Allegro")
    held = Held([version["sha256"] for version in versions], [version["size"] for version in versions])
    return held, len(versions), wrong
