"""An order, its identifiers and how its document is rendered; it stays unrendered until somebody asks."""

import hashlib
import struct
from dataclasses import dataclass, field

from allegro_simulator import people, times
from allegro_simulator.templates import Template, amount

BUYERS = 20_000
OFFERS = 900

_UUID_EPOCH_MS = 12_219_292_800_000
_WORDS = struct.Struct("<16I")
_SURCHARGE = 12


@dataclass(slots=True, eq=False)
class Order:
    """One checkout form. Amounts, names and dates follow from `seed`, `origin` and `template` alone.

    `number` is unique in the world and makes the identifiers, `origin` is the number the buyer and
    the prices come from (the same unless the form came out of a merge). Instants are milliseconds.
    `served` and `versions` are SHA-256 of bodies; None means nothing handed out, or only one version.
    """

    seller_id: str
    seed: int
    number: int
    origin: int
    node: int
    template: Template
    bought: int
    updated: int
    status: str
    fulfillment: str = "NEW"
    sent: str = "NONE"
    revision: int = 0
    has_payment: bool = False
    method: str | None = None
    surcharges: tuple[str, ...] = ()
    gone: bool = False
    superseded_by: str | None = None
    body: bytes | None = None
    sha: str = ""
    served: list[str] | None = None
    versions: list[str] | None = None
    id: str = field(default="")


def identifier(order: Order, kind: int, ms: int) -> str:
    """A version 1 UUID with this creation time, unique by `number` and `kind` (0..15)."""
    ticks = (ms + _UUID_EPOCH_MS) * 10_000 + order.number % 625 * 16 + kind
    clock = 0x8000 | order.number // 625 & 0x3FFF
    return (
        f"{ticks & 0xFFFFFFFF:08x}-{ticks >> 32 & 0xFFFF:04x}-1{ticks >> 48 & 0xFFF:03x}-{clock:04x}-{order.node:012x}"
    )


def form_id(order: Order, ms: int) -> str:
    return identifier(order, 0, ms)


def payment_id(order: Order) -> str:
    return identifier(order, 1, order.bought)


def surcharge_id(order: Order, count: int, ms: int) -> str:
    return identifier(order, _SURCHARGE + count % 4, ms)


def revision_text(order: Order, revision: int) -> str:
    """Eight hexadecimal digits, different for each revision of an order."""
    mixed = (order.seed * 31 + order.number * 0x9E3779B1 + revision * 0x85EBCA6B + 0x2F0B4C47) & 0xFFFFFFFF
    return f"{(mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF:08x}"


def draws(order: Order) -> tuple[int, ...]:
    """Sixteen numbers below 2**32 that belong to this order for ever."""
    key = b"%d:%d" % (order.seed, order.origin)
    return _WORDS.unpack(hashlib.blake2b(key).digest())


def buyer(order: Order) -> people.Buyer:
    """The buyer; low numbers are frequent, so buyers come back."""
    drawn = draws(order)
    return _buyer(order.template, drawn)


def body(order: Order) -> bytes:
    """The document as it is on the wire now; rendered once and kept."""
    if order.body is None:
        keep(order, render(order, order.template))
    return order.body or b""


def keep(order: Order, document: bytes) -> None:
    """Make these bytes the current version."""
    order.body = document
    order.sha = hashlib.sha256(document).hexdigest()
    if order.versions is not None and order.versions[-1] != order.sha:
        order.versions.append(order.sha)


def change(order: Order, document: bytes) -> None:
    """Make these bytes the current version and remember the one before."""
    if order.versions is None:
        body(order)
        order.versions = [order.sha]
    keep(order, document)


def render(order: Order, template: Template) -> bytes:
    """The document of this order by this template, minified, non-ASCII as such."""
    drawn = draws(order)
    person = _buyer(template, drawn)
    bought = order.bought
    values: dict[str, str] = {
        "form": order.id,
        "payment": payment_id(order) if template.has_payment else "",
        "updated": times.text(order.updated),
        "revision": revision_text(order, order.revision),
        "fulfillment": order.fulfillment,
        "sent": order.sent,
        "message": _message(drawn[10]),
        "buyer": person.id,
        "email": person.email,
        "login": person.login,
        "first": person.first,
        "last": person.last,
        "phone": person.phone,
        "street": person.street,
        "city": person.city,
        "zip": person.zip,
        "company": person.company,
        "taxid": person.tax_id,
        "point": f"{person.city_code}{drawn[11] % 90 + 10}A",
    }
    _put_lines(values, order, template, drawn)
    day, rest = divmod(bought, times.DAY)
    time_of_day = times.clock_text(rest)
    for name, after in template.mornings:
        values[name] = times.day_text(day + after) + time_of_day
    for name, offset in template.instants:
        values[name] = times.text(bought + offset)
    for name, offset in template.days:
        values[name] = times.day_text((bought + offset) // times.DAY)
    return (template.text % values).encode()


def _put_lines(values: dict[str, str], order: Order, template: Template, drawn: tuple[int, ...]) -> None:
    more = 0
    for number, line in enumerate(template.lines):
        word = drawn[2 + number % 7]
        extra = word % (line.price // 4 + 1) // template.step * template.step
        more += extra * line.quantity
        offer, name, code = people.offer((word >> 8) % OFFERS)
        values[f"line{number}"] = identifier(order, 2 + number, order.bought)
        values[f"price{number}"] = amount(line.price + extra)
        values[f"original{number}"] = amount(line.original + extra)
        values[f"offer{number}"] = offer
        values[f"name{number}"] = name
        values[f"code{number}"] = code
    values["total"] = amount(template.total + more)
    if template.paid is not None:
        values["paid"] = amount(template.paid + more)


def _buyer(template: Template, drawn: tuple[int, ...]) -> people.Buyer:
    number = drawn[0] % (drawn[9] % BUYERS + 1)
    return people.buyer(template.country, number, guest=template.guest)


def _message(word: int) -> str:
    if word % 10:
        return "null"
    return f'"{people.MESSAGES[word // 10 % len(people.MESSAGES)]}"'
