"""What exists in a world: sellers, forms, journal, authorization server, ledger, faults; no behaviour of its own."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from allegro_simulator import extras, shelf, times
from allegro_simulator.extras import Drawer, Extra
from allegro_simulator.faults import Switchboard
from allegro_simulator.journal import Desk, Journal
from allegro_simulator.limits import Ledger
from allegro_simulator.oauth import Registry
from allegro_simulator.orders import Order
from allegro_simulator.shelf import Shelf


class UnknownInSimulatorError(LookupError):
    """Nothing in this world has that identifier."""


class NotPossibleError(ValueError):
    """The order is not in a state in which this can happen."""


@dataclass(slots=True)
class Seller:
    """One account with its orders and its journal."""

    id: str
    login: str
    number: int
    seed: int
    marketplace: str = "allegro-pl"
    shelf: Shelf = field(default_factory=Shelf, repr=False)
    journal: Journal = field(default_factory=Journal, repr=False)
    extras: Drawer = field(default_factory=extras.drawer, repr=False)


@dataclass(slots=True)
class State:
    """A whole world. `numbers` is how many orders were ever numbered, `traces` how many answers given."""

    clock: Callable[[], datetime]
    random: random.Random
    node: int
    registry: Registry
    ledger: Ledger
    client_id: str
    client_secret: str
    check_user_agent: bool
    base_url: str
    auto_approve: bool
    resource_limits: bool = True
    board: Switchboard = field(default_factory=Switchboard)
    desk: Desk = field(default_factory=Desk)
    sellers: dict[str, Seller] = field(default_factory=dict)
    forms: dict[str, Order] = field(default_factory=dict)
    by_seller: dict[str, list[Order]] = field(default_factory=dict)
    numbers: int = 0
    traces: int = 0


def seller(state: State, seller_id: str) -> Seller:
    try:
        return state.sellers[seller_id]
    except KeyError:
        raise UnknownInSimulatorError(f"no seller {seller_id}") from None


def form(state: State, form_id: str) -> Order:
    """The order with this id, merged away or not."""
    try:
        return state.forms[form_id]
    except KeyError:
        raise UnknownInSimulatorError(f"no checkout form {form_id}") from None


def document(state: State, kind: str, extra_id: str) -> Extra:
    """The return or refund with this id, whoever sold."""
    for account in state.sellers.values():
        if found := account.extras[kind].get(extra_id):
            return found
    raise UnknownInSimulatorError(f"no {kind} {extra_id}")


def admit(state: State, account: Seller, order: Order) -> None:
    """Let a new order exist."""
    state.forms[order.id] = order
    state.by_seller[account.id].append(order)
    shelf.add(account.shelf, order)


def now_us(state: State) -> int:
    return times.microseconds(state.clock())


def now_ms(state: State) -> int:
    return now_us(state) // 1_000


def now_seconds(state: State) -> float:
    return now_us(state) / 1e6
