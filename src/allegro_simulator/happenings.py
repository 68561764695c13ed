"""Things that happen to orders: each changes the document and tells the journal; nothing is checked for a client."""

import json
import random
from dataclasses import replace

from allegro_simulator import extras, generation, journal, orders, shelf, templates, times
from allegro_simulator.journal import Event
from allegro_simulator.orders import Order
from allegro_simulator.state import NotPossibleError, Seller, State, admit, form, now_ms, now_us, seller
from allegro_simulator.templates import Document, amount, cents, template

_RECENT = 300
_TAX = {"rate": "23.00", "subject": "GOODS", "exemption": None}
_REACHED = ("BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING")


def buys(state: State, seller_id: str, *, buyer_of: str | None = None, silently: bool = False) -> str:
    """A purchase: the form is not filled in yet. `buyer_of`: by the buyer of that form, the same things again."""
    account = seller(state, seller_id)
    now = now_ms(state)
    chosen = generation.pick_template(state.random, len(templates.names()), 0)
    earlier = form(state, buyer_of) if buyer_of else None
    name = earlier.template.name if earlier else (chosen.name if chosen.online else templates.names()[0])
    bought = template(name, templates.BOUGHT)
    state.numbers += 1
    order = Order(
        seller_id=account.id,
        seed=account.seed,
        number=state.numbers,
        origin=earlier.origin if earlier else state.numbers,
        node=state.node,
        template=bought,
        bought=now,
        updated=now,
        status=bought.status,
    )
    order.id = orders.form_id(order, now)
    admit(state, account, order)
    _tell(state, order, "BOUGHT", silently=silently)
    return order.id


def fills_in(state: State, form_id: str, *, silently: bool = False) -> None:
    """The buyer chose delivery and payment; nothing is paid yet."""
    order, document = _opened(state, form_id, {"BOUGHT"})
    _take_form(order, document, templates.FILLED_IN)
    _close(state, order, document)
    _tell(state, order, "FILLED_IN", silently=silently)


def pays(state: State, form_id: str, *, silently: bool = False) -> None:
    """The payment is finished; addresses become visible."""
    order, document = _opened(state, form_id, {"BOUGHT", "FILLED_IN"})
    _take_form(order, document, templates.PAID)
    document["payment"]["finishedAt"] = times.text(now_ms(state))
    if document["payment"]["paidAmount"]:
        document["payment"]["paidAmount"]["amount"] = document["summary"]["totalToPay"]["amount"]
    _close(state, order, document)
    _tell(state, order, "READY_FOR_PROCESSING", silently=silently)


def cancels(state: State, form_id: str, *, by: str = "buyer", silently: bool = False) -> None:
    """`by` is buyer or auto. The fulfillment status stays, the addresses are forgotten."""
    kinds = {"buyer": "BUYER_CANCELLED", "auto": "AUTO_CANCELLED"}
    if by not in kinds:
        raise NotPossibleError(f"cancelled by {by}: only by buyer or auto")
    order, document = _opened(state, form_id, set(_REACHED))
    document["status"] = "CANCELLED"
    templates.forget_addresses(document)
    _close(state, order, document)
    _tell(state, order, kinds[by], silently=silently)


def modifies_address(state: State, form_id: str, *, silently: bool = False) -> None:
    """The buyer corrects the delivery address of a paid order."""
    order, document = _opened(state, form_id, {"READY_FOR_PROCESSING"})
    address = document["delivery"]["address"]
    if address is None:
        raise NotPossibleError(f"{form_id} has no delivery address")
    draw = state.random
    address["street"] = f"Poprawiona-Źródlana {draw.randrange(1, 500)}/{draw.randrange(1, 90)}"
    address["modifiedAt"] = times.text(now_ms(state))
    _close(state, order, document)
    _tell(state, order, "BUYER_MODIFIED", silently=silently)


def plants(state: State, form_id: str, body: bytes, *, silently: bool = False) -> None:
    """These bytes are served as the order from now on; its events tell of it as if it were none of them."""
    order = form(state, form_id)
    orders.change(order, body)
    seller(state, order.seller_id).shelf.generation += 1
    _tell(state, order, "BUYER_MODIFIED", silently=silently)


def ships(state: State, form_id: str, *, status: str = "SENT", silently: bool = False) -> None:
    """The fulfillment status changes; `updatedAt` and `revision` stay as they are."""
    order, document = _opened(state, form_id, {*_REACHED, "CANCELLED"})
    document["fulfillment"]["status"] = status
    if status in generation.HAS_LEFT:
        extras.shipped(seller(state, order.seller_id).extras, order, now_ms(state))
        document["fulfillment"]["shipmentSummary"]["lineItemsSent"] = "ALL"
    order.fulfillment = status
    order.sent = document["fulfillment"]["shipmentSummary"]["lineItemsSent"]
    orders.change(order, _minified(document))
    seller(state, order.seller_id).shelf.generation += 1
    _tell(state, order, "FULFILLMENT_STATUS_CHANGED", silently=silently)


def surcharges(state: State, form_id: str, *, silently: bool = False) -> None:
    """The buyer pays something more; `payment.paidAmount` does not grow, READY_FOR_PROCESSING comes again."""
    order, document = _opened(state, form_id, {"READY_FOR_PROCESSING"})
    now = now_ms(state)
    payment = orders.surcharge_id(order, len(order.surcharges), now)
    extra: Document = {
        "id": payment,
        "type": "ONLINE",
        "provider": "PAYU",
        "finishedAt": times.text(now),
        "paidAmount": {
            "amount": amount(100 * state.random.randrange(1, 60)),
            "currency": document["summary"]["totalToPay"]["currency"],
        },
        "reconciliation": None,
        "features": [],
    }
    document["surcharges"].append(extra)
    order.surcharges = (*order.surcharges, payment)
    _close(state, order, document)
    _tell(state, order, "READY_FOR_PROCESSING", silently=silently)


def merges(state: State, form_a: str, form_b: str, *, silently: bool = False) -> str:
    """Two forms become one new form with the line items of both; the old ids are no more.

    Everything else comes from the form that had got further, from `form_a` where they are equal.
    """
    first, document = _opened(state, form_a, set(_REACHED))
    second, other = _opened(state, form_b, set(_REACHED))
    if _REACHED.index(second.status) > _REACHED.index(first.status):
        first, document, second, other = second, other, first, document
    if first.seller_id != second.seller_id or first is second:
        raise NotPossibleError("two different forms of one seller can merge")
    account = seller(state, first.seller_id)
    order = _successor(state, first, second)
    _join(order, document, other)
    orders.keep(order, _minified(document))
    for old in (first, second):
        shelf.remove(account.shelf, old)
        old.gone, old.superseded_by = True, order.id
    admit(state, account, order)
    _tell(state, order, order.status, silently=silently)
    return order.id


def _successor(state: State, first: Order, second: Order) -> Order:
    """A new form in the state of the first, standing where the later of the two purchases stands."""
    now = now_ms(state)
    state.numbers += 1
    order = replace(
        first,
        number=state.numbers,
        bought=max(first.bought, second.bought),
        updated=now,
        revision=0,
        body=None,
        sha="",
        served=None,
        versions=None,
    )
    order.id = orders.form_id(order, now)
    return order


def _join(order: Order, document: Document, other: Document) -> None:
    """Make `document` the one of `order`, with the line items of `other`, in its own currency."""
    document["id"] = order.id
    document["revision"] = orders.revision_text(order, 0)
    document["updatedAt"] = times.text(order.updated)
    currency = document["summary"]["totalToPay"]["currency"]
    for line in other["lineItems"]:
        line["price"]["currency"] = line["originalPrice"]["currency"] = currency
        line["tax"] = line["tax"] or (dict(_TAX) if document["payment"] else None)
    document["lineItems"] += other["lineItems"]
    total = amount(_to_pay(document))
    document["summary"]["totalToPay"]["amount"] = total
    if document["payment"]:
        document["payment"]["id"] = orders.payment_id(order)
        if order.status == "READY_FOR_PROCESSING" and document["payment"]["paidAmount"]:
            document["payment"]["paidAmount"]["amount"] = total


def reorders(state: State, seller_id: str) -> str:
    """A whole purchase at once, whose three events enter the journal in another order than they occurred."""
    account = seller(state, seller_id)
    form_id = buys(state, seller_id, silently=True)
    fills_in(state, form_id, silently=True)
    pays(state, form_id, silently=True)
    events = account.journal.lost[-3:]
    del account.journal.lost[-3:]
    for place in state.random.choice(((1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 2, 1))):
        journal.write(state.desk, account.journal, events[place], now_us(state))
    return form_id


def grows(state: State, seller_id: str, count: int) -> list[str]:
    """`count` purchases, each filled in and paid."""
    made = []
    for _ in range(count):
        form_id = buys(state, seller_id)
        fills_in(state, form_id)
        pays(state, form_id)
        made.append(form_id)
    return made


def happens(state: State, seller_id: str, count: int, *, silently: bool = False) -> list[str]:
    """`count` random things that suit the state of the recent orders; the ids of the forms concerned."""
    return [_something(state, seller(state, seller_id), silently=silently) for _ in range(count)]


def _something(state: State, account: Seller, *, silently: bool) -> str:
    draw = state.random
    chance = draw.random()
    recent = account.shelf.bought[-_RECENT:]
    if chance < 0.22 and (found := _pick(draw, recent, "BOUGHT")):
        fills_in(state, found.id, silently=silently)
    elif chance < 0.46 and (found := _pick(draw, recent, "FILLED_IN")):
        pays(state, found.id, silently=silently)
    elif 0.46 <= chance < 0.64 and (found := _pick(draw, recent, "READY_FOR_PROCESSING")):
        ships(state, found.id, status=_next_step(draw, found), silently=silently)
    elif 0.64 <= chance < 0.69 and (found := _pick(draw, recent, "READY_FOR_PROCESSING", fulfillment="NEW")):
        modifies_address(state, found.id, silently=silently)
    elif 0.69 <= chance < 0.72 and (found := _pick(draw, recent, "READY_FOR_PROCESSING")):
        surcharges(state, found.id, silently=silently)
    elif 0.72 <= chance < 0.77 and (found := _pick(draw, recent, *_REACHED, fulfillment="NEW")):
        cancels(state, found.id, silently=silently)
    elif 0.77 <= chance < 0.81 and (two := _of_one_buyer(recent)):
        return merges(state, two[0].id, two[1].id, silently=silently)
    elif 0.77 <= chance < 0.81 and (found := _pick(draw, recent, "BOUGHT")):
        return buys(state, account.id, buyer_of=found.id, silently=silently)
    else:
        return buys(state, account.id, silently=silently)
    return found.id


def _of_one_buyer(recent: list[Order]) -> tuple[Order, Order] | None:
    """Two purchases of one buyer that are not filled in yet."""
    by_buyer: dict[int, Order] = {}
    for order in recent:
        if order.status == "BOUGHT" and (other := by_buyer.setdefault(order.origin, order)) is not order:
            return other, order
    return None


def _pick(draw: random.Random, recent: list[Order], *statuses: str, fulfillment: str | None = None) -> Order | None:
    fitting = [
        order
        for order in recent
        if order.status in statuses and (fulfillment is None or order.fulfillment == fulfillment)
    ]
    return draw.choice(fitting) if fitting else None


def _next_step(draw: random.Random, order: Order) -> str:
    steps = {
        "NEW": ("PROCESSING", "SENT"),
        "PROCESSING": ("READY_FOR_SHIPMENT", "SENT"),
        "READY_FOR_SHIPMENT": ("SENT",),
        "SENT": ("PICKED_UP", "READY_FOR_PICKUP"),
        "READY_FOR_PICKUP": ("PICKED_UP",),
        "PICKED_UP": ("RETURNED",),
    }
    return draw.choice(steps.get(order.fulfillment, ("PROCESSING", "NEW")))


def _opened(state: State, form_id: str, statuses: set[str]) -> tuple[Order, Document]:
    order = form(state, form_id)
    if order.gone:
        raise NotPossibleError(f"{form_id} was merged into {order.superseded_by}")
    if order.status not in statuses:
        raise NotPossibleError(f"{form_id} is {order.status}")
    return order, json.loads(orders.body(order))


def _take_form(order: Order, document: Document, stage: str) -> None:
    """Put in what the buyer chose: it was decided when the order was made, and was only not shown yet."""
    order.template = template(order.template.name, stage)
    chosen = json.loads(orders.render(order, order.template))
    for name in ("payment", "delivery", "invoice", "messageToSeller"):
        document[name] = chosen[name]
    for line in document["lineItems"]:
        line["tax"] = line["tax"] or dict(_TAX)
    document["status"] = order.template.status
    document["summary"]["totalToPay"]["amount"] = amount(_to_pay(document))


def _to_pay(document: Document) -> int:
    cost = cents(document["delivery"]["cost"]["amount"]) if document["delivery"] else 0
    prices = [cents(line["price"]["amount"]) * int(line["quantity"]) for line in document["lineItems"]]
    return cost + sum(prices)


def _close(state: State, order: Order, document: Document) -> None:
    """Make the document the current version with a new revision and moment of modification."""
    now = now_ms(state)
    order.revision += 1
    order.status = document["status"]
    order.has_payment = bool(document["payment"])
    order.method = document["delivery"] and document["delivery"]["method"]["id"]
    document["revision"] = orders.revision_text(order, order.revision)
    document["updatedAt"] = times.text(now)
    orders.change(order, _minified(document))
    shelf.move(seller(state, order.seller_id).shelf, order, now)


def _tell(state: State, order: Order, kind: str, *, silently: bool) -> None:
    written = seller(state, order.seller_id).journal
    event = Event(kind, order, now_ms(state), order.revision)
    if silently:
        written.lost.append(event)
    else:
        journal.write(state.desk, written, event, now_us(state))


def _minified(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
