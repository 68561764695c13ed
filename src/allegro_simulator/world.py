"""The simulated world: every request is answered here and every verb lives here; one lock, no I/O."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from allegro_simulator import (
    control,
    extras,
    faults,
    gate,
    generation,
    happenings,
    journal,
    limits,
    oauth,
    orders,
    page,
    shelf,
    times,
)
from allegro_simulator import state as world_state
from allegro_simulator.authorization import VERIFICATION
from allegro_simulator.extras import Drawer
from allegro_simulator.http import Request, Response
from allegro_simulator.journal import JournalEvent
from allegro_simulator.limits import Call, Ledger
from allegro_simulator.oauth import Refreshed, Registry
from allegro_simulator.orders import Order
from allegro_simulator.state import NotPossibleError, Seller, State, UnknownInSimulatorError

__all__ = ["ExtraTruth", "NotPossibleError", "Seller", "Truth", "UnknownInSimulatorError", "World"]


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of one checkout form.

    `gone` and `superseded_by` tell of a merge, `hidden` of a purchase beyond twelve months. `served`
    are the SHA-256 of the versions handed out, in order, consecutive equal ones once; `versions` of
    every state that ever was.
    """

    current: bytes | None
    gone: bool
    superseded_by: str | None
    hidden: bool
    served: list[str]
    versions: list[str]


@dataclass(frozen=True, slots=True)
class ExtraTruth:
    """What is true of one document beside an order; fields as in Truth."""

    order_id: str
    current: bytes
    served: list[str]
    versions: list[str]


class World:
    """Sellers, their orders and everything a client may do to them. Seconds everywhere; UTC clock."""

    def __init__(
        self,
        *,
        seed: int = 1,
        clock: Callable[[], datetime] | None = None,
        access_token_seconds: int = 43_199,
        refresh_grace_seconds: float = 60,
        device_interval: int = 5,
        device_expires_in: int = 3_600,
        device_auto_approve: bool = False,
        client_limit: int = 9_000,
        client_id: str = "simulator",
        client_secret: str = "simulator-secret",  # noqa: S107 - a simulator has no secrets
        event_lag: float = 0.0,
        check_user_agent: bool = True,
        base_url: str = "http://127.0.0.1:8090",
        resource_limits: bool = True,
    ) -> None:
        draw = random.Random(seed)
        self._lock = threading.RLock()
        self._seed = seed
        self._state = State(
            clock=clock or (lambda: datetime.now(UTC)),
            random=draw,
            node=draw.getrandbits(48) | 1 << 40,
            registry=Registry(
                random=random.Random(f"tokens {seed}"),
                issuer=base_url,
                access_seconds=access_token_seconds,
                grace_seconds=refresh_grace_seconds,
                interval=device_interval,
                device_seconds=device_expires_in,
            ),
            ledger=Ledger(client_limit),
            client_id=client_id,
            client_secret=client_secret,
            check_user_agent=check_user_agent,
            base_url=base_url,
            auto_approve=device_auto_approve,
            resource_limits=resource_limits,
        )
        self._state.desk.lag_us = int(event_lag * 1_000_000)

    # -- requests ---------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response:
        """The answer to any request: API, authorization, control and the page for people."""
        with self._lock:
            journal.settle(self._state.desk, world_state.now_us(self._state))
            if request.path.startswith(control.PREFIX):
                return control.answer(self, request)
            if request.path == VERIFICATION:
                return page.answer(self, request)
            return gate.answer(self._state, request)

    @property
    def base_url(self) -> str:
        """Where this world is reached; the verification address is made of it."""
        return self._state.base_url

    @base_url.setter
    def base_url(self, url: str) -> None:
        self._state.base_url = self._state.registry.issuer = url

    @property
    def client_id(self) -> str:
        return self._state.client_id

    @property
    def client_secret(self) -> str:
        return self._state.client_secret

    # -- sellers ----------------------------------------------------------------------------------

    def add_seller(
        self, orders: int = 100, *, seed: int | None = None, login: str | None = None, months: int = 12
    ) -> Seller:
        """A seller with this many orders over the last months; the same seed and clock give the same orders."""
        with self._lock:
            state = self._state
            number = len(state.sellers) + 1
            chosen = self._seed * 1_000 + number if seed is None else seed
            account = Seller(
                id=str(99_000_000 + number), login=login or f"Sprzedawca_{number}", number=number, seed=chosen
            )
            now = world_state.now_ms(state)
            made = generation.history(
                seller_id=account.id,
                seed=chosen,
                node=state.node,
                first_number=state.numbers + 1,
                count=orders,
                months=months,
                now=now,
            )
            state.numbers += orders
            state.sellers[account.id] = account
            state.by_seller[account.id] = made[:]
            state.forms.update((order.id, order) for order in made)
            shelf.fill(account.shelf, made)
            extras.past(account.extras, made, now)
            journal.fill(state.desk, account.journal, generation.past_events(made, seed=chosen, now=now))
            return account

    @property
    def sellers(self) -> list[Seller]:
        with self._lock:
            return list(self._state.sellers.values())

    # -- what happens -----------------------------------------------------------------------------

    def orders(self, seller_id: str) -> list[str]:
        """Ids of the orders that are served now, oldest purchase first."""
        with self._lock:
            account = world_state.seller(self._state, seller_id)
            horizon = shelf.visible_from(world_state.now_ms(self._state))
            return [order.id for order in account.shelf.bought if order.bought >= horizon]

    def happens(self, seller_id: str, n: int = 1, *, silently: bool = False) -> list[str]:
        """`n` random realistic things; the ids of the forms concerned, a merged one under its new id."""
        with self._lock:
            return happenings.happens(self._state, seller_id, n, silently=silently)

    def buys(self, seller_id: str, *, buyer_of: str | None = None, silently: bool = False) -> str:
        with self._lock:
            return happenings.buys(self._state, seller_id, buyer_of=buyer_of, silently=silently)

    def fills_in(self, form: str, *, silently: bool = False) -> None:
        with self._lock:
            happenings.fills_in(self._state, form, silently=silently)

    def pays(self, form: str, *, silently: bool = False) -> None:
        with self._lock:
            happenings.pays(self._state, form, silently=silently)

    def cancels(self, form: str, by: str = "buyer", *, silently: bool = False) -> None:
        with self._lock:
            happenings.cancels(self._state, form, by=by, silently=silently)

    def modifies_address(self, form: str, *, silently: bool = False) -> None:
        with self._lock:
            happenings.modifies_address(self._state, form, silently=silently)

    def ships(self, form: str, status: str = "SENT", *, silently: bool = False) -> None:
        with self._lock:
            happenings.ships(self._state, form, status=status, silently=silently)

    def surcharges(self, form: str, *, silently: bool = False) -> None:
        with self._lock:
            happenings.surcharges(self._state, form, silently=silently)

    def plants(self, form: str, body: bytes, *, silently: bool = False) -> None:
        """These bytes, whatever they are, become the document of an order; its place in lists stays."""
        with self._lock:
            happenings.plants(self._state, form, body, silently=silently)

    def merges(self, form_a: str, form_b: str, *, silently: bool = False) -> str:
        with self._lock:
            return happenings.merges(self._state, form_a, form_b, silently=silently)

    def grows(self, seller_id: str, n: int) -> list[str]:
        """`n` new orders, bought, filled in and paid."""
        with self._lock:
            return happenings.grows(self._state, seller_id, n)

    # -- what belongs to orders; no event tells of it ---------------------------------------------

    def changes_tracking(self, form: str) -> None:
        with self._lock:
            extras.changes_tracking(*self._drawer(form), world_state.now_ms(self._state))

    def adds_invoice(self, form: str) -> None:
        with self._lock:
            extras.adds_invoice(*self._drawer(form), world_state.now_ms(self._state))

    def returns(self, form: str) -> str:
        """The buyer sends it back; the return's id."""
        with self._lock:
            return extras.comes_back(*self._drawer(form), world_state.now_ms(self._state)).id

    def advances_return(self, return_id: str) -> None:
        with self._lock:
            extras.goes_on(world_state.document(self._state, "returns", return_id))

    def refunds(self, form: str) -> str:
        """Money goes back; the refund's id."""
        with self._lock:
            return extras.refunded(*self._drawer(form), world_state.now_ms(self._state)).id

    def settles_refund(self, refund_id: str) -> None:
        with self._lock:
            extras.settles(world_state.document(self._state, "refunds", refund_id))

    def writes_extra(self, seller_id: str, kind: str, extra_id: str, body: bytes) -> None:
        """Any bytes at all in the place of a document that is there already."""
        with self._lock:
            extras.write(world_state.seller(self._state, seller_id).extras[kind][extra_id], body)

    def extras_truth(self, seller_id: str) -> dict[tuple[str, str], ExtraTruth]:
        """Every document that was ever asked for or that happened, by kind and id."""
        with self._lock:
            found = world_state.seller(self._state, seller_id).extras.values()
            return {
                (one.kind, one.id): ExtraTruth(one.order.id, one.body, list(one.served), list(one.versions))
                for of_kind in found
                for one in of_kind.values()
            }

    def _drawer(self, form: str) -> tuple[Drawer, Order]:
        order = world_state.form(self._state, form)
        return world_state.seller(self._state, order.seller_id).extras, order

    # -- the journal ------------------------------------------------------------------------------

    def loses_event(self, seller_id: str) -> None:
        """The next thing that happens leaves no event."""
        with self._lock:
            world_state.seller(self._state, seller_id).journal.losing += 1

    def duplicates_event(self, seller_id: str) -> str | None:
        """The latest event once more, with a new id; that id."""
        with self._lock:
            account = world_state.seller(self._state, seller_id)
            return journal.duplicate(self._state.desk, account.journal, world_state.now_us(self._state))

    def restores_lost_events(self, seller_id: str) -> list[str]:
        """Events that were lost or silent enter the journal now; their new ids."""
        with self._lock:
            account = world_state.seller(self._state, seller_id)
            return journal.restore(self._state.desk, account.journal, world_state.now_us(self._state))

    def replays_late(self, seller_id: str) -> list[str]:
        """Another word for restores_lost_events."""
        return self.restores_lost_events(seller_id)

    def plants_event(self, seller_id: str, body: bytes) -> None:
        """These bytes, whatever they are, become the newest event of the journal."""
        with self._lock:
            account = world_state.seller(self._state, seller_id)
            journal.plant(self._state.desk, account.journal, body, world_state.now_us(self._state))

    def reorders(self, seller_id: str) -> str:
        """A whole purchase whose events enter the journal shuffled; the form id."""
        with self._lock:
            return happenings.reorders(self._state, seller_id)

    # -- authorization ----------------------------------------------------------------------------

    def approves(self, user_code: str, seller_id: str) -> None:
        """The seller types the code and allows."""
        with self._lock:
            device = self._device(user_code)
            device.seller_id = world_state.seller(self._state, seller_id).id
            device.state = oauth.APPROVED

    def denies(self, user_code: str) -> None:
        with self._lock:
            self._device(user_code).state = oauth.DENIED

    def devices(self) -> list[dict[str, Any]]:
        """Flows that wait for somebody."""
        with self._lock:
            now = world_state.now_seconds(self._state)
            return [
                {"user_code": device.user_code, "client_id": device.client_id, "scope": " ".join(device.scopes)}
                for device in self._state.registry.devices.values()
                if device.state == oauth.PENDING and now < device.expires_at
            ]

    def rejects_tokens(self, seller_id: str) -> int:
        """A change of password: both tokens of every grant die; how many grants there were."""
        with self._lock:
            return oauth.kill(self._state.registry, world_state.seller(self._state, seller_id).id)

    def removes_app(self, seller_id: str) -> int:
        """The seller removes the application: a refresh now answers 401."""
        with self._lock:
            account = world_state.seller(self._state, seller_id)
            return oauth.kill(self._state.registry, account.id, removed=True)

    def expires_access_tokens(self, seller_id: str) -> int:
        with self._lock:
            account = world_state.seller(self._state, seller_id)
            return oauth.expire(self._state.registry, account.id, world_state.now_seconds(self._state))

    def _device(self, user_code: str) -> oauth.Device:
        now = world_state.now_seconds(self._state)
        device = oauth.device_by_user_code(self._state.registry, user_code, now)
        if device is None:
            raise UnknownInSimulatorError(f"no device waits with the code {user_code}")
        return device

    # -- faults -----------------------------------------------------------------------------------

    def faults(self, kind: str, *, times: int | None = 1, path: str = "", after: bool = False, **params: Any) -> None:
        """The next `times` requests whose path begins with `path` go wrong; see faults.Planned for params."""
        with self._lock:
            faults.plan(self._state.board, faults.Planned(kind, times, path, after, params))

    def clear_faults(self) -> None:
        with self._lock:
            self._state.board.planned.clear()

    def goes_down(self, seconds: float | None = None, status: int = 503) -> None:
        """Nothing answers anything but this status, for so long or until comes_back; 0 resets connections."""
        with self._lock:
            board = self._state.board
            board.down_status = status
            board.down_until = None if seconds is None else world_state.now_seconds(self._state) + seconds

    def comes_back(self) -> None:
        with self._lock:
            self._state.board.down_status = None

    def limits(self, per_minute: int) -> None:
        """So many requests of a client id are admitted in any 60 s from now on; earlier ones do not count."""
        with self._lock:
            limits.restart(self._state.ledger, int(per_minute))

    # -- truth ------------------------------------------------------------------------------------

    def truth(self, seller_id: str) -> dict[str, Truth]:
        """Every form that ever was, by id."""
        with self._lock:
            world_state.seller(self._state, seller_id)
            horizon = shelf.visible_from(world_state.now_ms(self._state))
            return {order.id: _truth(order, horizon) for order in self._state.by_seller[seller_id]}

    def renders(self, seller_id: str) -> int:
        """Make every document ahead of the first request for it; how many there are."""
        with self._lock:
            world_state.seller(self._state, seller_id)
            return len([orders.body(order) for order in self._state.by_seller[seller_id]])

    def body(self, form_id: str) -> bytes:
        """The current document, also of a form that is gone."""
        with self._lock:
            return orders.body(world_state.form(self._state, form_id))

    def served_events(self, seller_id: str) -> set[str]:
        """Ids of the journal that were handed out."""
        with self._lock:
            return set(world_state.seller(self._state, seller_id).journal.served)

    def events(self, seller_id: str) -> list[JournalEvent]:
        """The whole journal, also what is older than it is served."""
        with self._lock:
            journal.settle(self._state.desk, world_state.now_us(self._state))
            found = world_state.seller(self._state, seller_id).journal.events
            return [
                JournalEvent(str(event.id), event.kind, event.order.id, times.instant(event.occurred))
                for event in found
            ]

    @property
    def calls(self) -> list[Call]:
        """The last 200,000 requests, control excluded."""
        with self._lock:
            return list(self._state.ledger.calls)

    @property
    def counts(self) -> dict[tuple[str, int], int]:
        """How many requests by class of path and status."""
        with self._lock:
            return dict(self._state.ledger.counts)

    @property
    def blocked_calls(self) -> int:
        """Requests made although the client id was blocked."""
        return self._state.ledger.blocked_calls

    @property
    def tokens(self) -> list[Refreshed]:
        """Every attempt to refresh."""
        with self._lock:
            return list(self._state.registry.log)

    def counted(self, since: float, until: float) -> int:
        """How many requests counted against the limit between two moments, in seconds since 1970."""
        with self._lock:
            return limits.counted(self._state.ledger, float(since), float(until))

    def worst_window(self, seconds: float = 60) -> int:
        """The most requests of one client id in any `seconds`."""
        with self._lock:
            return limits.worst_window(self._state.ledger, seconds)


def _truth(order: orders.Order, horizon: int) -> Truth:
    document = orders.body(order)
    return Truth(
        current=document,
        gone=order.gone,
        superseded_by=order.superseded_by,
        hidden=order.bought < horizon,
        served=list(order.served or ()),
        versions=list(order.versions or (order.sha,)),
    )
