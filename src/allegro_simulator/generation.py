"""Makes a seller's past: orders spread over the last months in plausible states, and their events."""

import random
from bisect import bisect_left
from itertools import accumulate

from allegro_simulator import journal, orders, templates, times
from allegro_simulator.journal import Event
from allegro_simulator.orders import Order
from allegro_simulator.templates import Template

_WEIGHTS = {"01": 30, "02": 10, "03": 5, "04": 8, "06": 6, "07": 8, "08": 5, "15": 5, "17": 4, "24": 5, "25": 4}
_MODIFIED_BY_BUYER = "21"
_NEWEST = 10 * times.MINUTE
_OLDEST_WITH_EVENTS = (journal.KEPT_DAYS + 12) * times.DAY
_MONTH = 30 * times.DAY
_AGAIN = (1_700_000, 3_000_000_000, 24_482_000_000)

# Fulfillment by age, each with its weight; the first bound in days that exceeds the age applies.
_FULFILLMENT = (
    (0.5, (("NEW", 70), ("PROCESSING", 30))),
    (2.0, (("NEW", 10), ("PROCESSING", 20), ("READY_FOR_SHIPMENT", 20), ("SENT", 50))),
    (14.0, (("SENT", 60), ("PICKED_UP", 32), ("READY_FOR_PICKUP", 3), ("PROCESSING", 3), ("SUSPENDED", 2))),
    (1e9, (("PICKED_UP", 66), ("SENT", 27), ("RETURNED", 4), ("NEW", 1), ("PROCESSING", 1), ("CANCELLED", 1))),
)
PATHS = {
    "NEW": (),
    "PROCESSING": ("PROCESSING",),
    "READY_FOR_SHIPMENT": ("PROCESSING", "READY_FOR_SHIPMENT"),
    "SENT": ("PROCESSING", "SENT"),
    "READY_FOR_PICKUP": ("READY_FOR_PICKUP",),
    "PICKED_UP": ("SENT", "PICKED_UP"),
    "RETURNED": ("SENT", "PICKED_UP", "RETURNED"),
    "SUSPENDED": ("SUSPENDED",),
    "CANCELLED": ("CANCELLED",),
}
HAS_LEFT = frozenset({"SENT", "PICKED_UP", "RETURNED", "READY_FOR_PICKUP"})


def history(
    *, seller_id: str, seed: int, node: int, first_number: int, count: int, months: int, now: int
) -> list[Order]:
    """`count` orders of the last `months` months, oldest first; the first ones show every example once."""
    draw = random.Random(seed)
    span = months * _MONTH - _NEWEST
    ages = sorted((int(draw.random() * span) + _NEWEST for _ in range(count)), reverse=True)
    made: list[Order] = []
    bought = 0
    for position, age in enumerate(ages):
        # Some purchases fall into the very same millisecond, as they do in life.
        bought = now - age if draw.random() > 0.01 or not made else bought
        template = pick_template(draw, position, now - bought)
        number = first_number + position
        made.append(_order(draw, template, seller_id, seed, node, number, bought, now))
    return made


def pick_template(draw: random.Random, position: int, age: int) -> Template:
    """An example and a stage that suit this age; position below the number of examples fixes the example."""
    examples = templates.names()
    if position < len(examples) and age > times.DAY:
        return templates.template(examples[position], templates.PAID)
    name = _weighted(draw, examples, _TOTALS)
    if age < times.DAY and name.startswith(_MODIFIED_BY_BUYER):
        name = examples[0]
    stage = _stage(draw.random(), age)
    if stage != templates.PAID and not templates.template(name, templates.PAID).online:
        stage = templates.PAID
    return templates.template(name, stage)


def _stage(chance: float, age: int) -> str:
    young = age < 7 * times.DAY + times.HOUR
    if chance < 0.02:
        return templates.CANCELLED_EARLY
    if chance < 0.06 and age > 3 * times.HOUR:
        return templates.CANCELLED
    if chance < 0.09 and not young:
        return templates.AUTO_CANCELLED
    if chance < 0.12 and young:
        return templates.BOUGHT
    if chance < 0.18 and young:
        return templates.FILLED_IN
    return templates.PAID


def _order(  # noqa: PLR0917 - inner function
    draw: random.Random, template: Template, seller_id: str, seed: int, node: int, number: int, bought: int, now: int
) -> Order:
    fulfillment = _fulfillment(draw, template, (now - bought) / times.DAY)
    order = Order(
        seller_id=seller_id,
        seed=seed,
        number=number,
        origin=number,
        node=node,
        template=template,
        bought=bought,
        updated=bought + template.updated_after,
        status=template.status,
        fulfillment=fulfillment,
        sent="ALL" if fulfillment in HAS_LEFT else "NONE",
        revision=len(_MILESTONES[template.stage]) - 1,
        has_payment=template.has_payment,
        method=template.method,
    )
    order.id = orders.form_id(order, bought)
    return order


def _fulfillment(draw: random.Random, template: Template, age_days: float) -> str:
    chance = draw.random()
    if template.stage == templates.CANCELLED:
        return "CANCELLED" if chance < 0.5 else "NEW"
    if template.stage != templates.PAID:
        return "NEW"
    for bound, choices, totals in _FULFILLMENT_TOTALS:
        if age_days < bound:
            return choices[bisect_left(totals, chance * totals[-1])]
    return "NEW"


# What the journal says of an order at each stage, with the moments after the purchase.
_MILESTONES: dict[str, tuple[tuple[str, int], ...]] = {
    templates.BOUGHT: (("BOUGHT", 0),),
    templates.FILLED_IN: (("BOUGHT", 0), ("FILLED_IN", 30_000)),
    templates.PAID: (("BOUGHT", 0), ("FILLED_IN", 30_000), ("READY_FOR_PROCESSING", 75_000)),
    templates.CANCELLED_EARLY: (("BOUGHT", 0), ("BUYER_CANCELLED", 9 * times.MINUTE)),
    templates.CANCELLED: (
        ("BOUGHT", 0),
        ("FILLED_IN", 30_000),
        ("READY_FOR_PROCESSING", 75_000),
        ("BUYER_CANCELLED", 2 * times.HOUR),
    ),
    templates.AUTO_CANCELLED: (
        ("BOUGHT", 0),
        ("FILLED_IN", 30_000),
        ("AUTO_CANCELLED", 7 * times.DAY + 3 * times.MINUTE),
    ),
}


def past_events(many: list[Order], *, seed: int, now: int) -> list[Event]:
    """Events of the younger orders, ids set to the moment of insertion: mostly 10.9 to 20.4 s after the fact.

    Some orders lack BOUGHT, some events are there twice or overtaken, as in the real journal.
    """
    draw = random.Random(f"events {seed}")
    found: list[Event] = []
    for order in many:
        if now - order.bought < _OLDEST_WITH_EVENTS:
            found += _events_of(order, draw, now)
    return sorted(found, key=lambda event: event.id)


def _events_of(order: Order, draw: random.Random, now: int) -> list[Event]:
    oldest = (now - journal.KEPT_DAYS * times.DAY) * 1_000
    marks = [
        (kind, order.bought + after, revision)
        for revision, (kind, after) in enumerate(_MILESTONES[order.template.stage])
    ]
    if order.template.name.startswith(_MODIFIED_BY_BUYER) and order.template.stage == templates.PAID:
        marks.append(("BUYER_MODIFIED", order.bought + 5 * times.HOUR, order.revision))
    if len(marks) > 1 and draw.random() < 0.03:
        del marks[0]
    if order.template.stage == templates.PAID:
        steps = PATHS[order.fulfillment]
        room = now - order.bought - 2 * times.MINUTE
        for step in range(len(steps)):
            after = 2 * times.MINUTE + int(min(10 * times.HOUR * (step + 1), room * (step + 1) / (len(steps) + 1)))
            marks.append(("FULFILLMENT_STATUS_CHANGED", order.bought + after, order.revision))
    events = [
        Event(kind, order, occurred, revision, id=occurred * 1_000 + _lag(draw))
        for kind, occurred, revision in marks
        if occurred < now - 21_000
    ]
    if events and draw.random() < 0.04:
        last = events[-1]
        events.append(Event(last.kind, order, last.occurred, last.revision, id=last.id + draw.choice(_AGAIN)))
    return [event for event in events if oldest <= event.id < now * 1_000]


def _lag(draw: random.Random) -> int:
    """Microseconds from the fact to the journal; one in fifty is late enough to be overtaken."""
    late = draw.randrange(60, 200) * 1_000_000 if draw.random() < 0.02 else 0
    return draw.randrange(10_900_000, 20_400_000) + late


def _weighted(draw: random.Random, names: tuple[str, ...], totals: tuple[int, ...]) -> str:
    return names[bisect_left(totals, draw.random() * totals[-1])]


_TOTALS = tuple(accumulate(_WEIGHTS.get(name[:2], 2) for name in templates.names()))
_FULFILLMENT_TOTALS = tuple(
    (bound, tuple(name for name, _ in choices), tuple(accumulate(weight for _, weight in choices)))
    for bound, choices in _FULFILLMENT
)
