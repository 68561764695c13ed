"""Turns the example orders into text templates, one for each stage of an order's life; fills nothing in."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from allegro_simulator import times

Document = dict[str, Any]

BOUGHT = "BOUGHT"
FILLED_IN = "FILLED_IN"
PAID = "READY_FOR_PROCESSING"
CANCELLED_EARLY = "CANCELLED_EARLY"
CANCELLED = "CANCELLED"
AUTO_CANCELLED = "AUTO_CANCELLED"

_STATUS = {CANCELLED_EARLY: "CANCELLED", AUTO_CANCELLED: "CANCELLED"}
_UPDATED_AFTER = {
    BOUGHT: 600,
    FILLED_IN: 30_500,
    CANCELLED_EARLY: 9 * times.MINUTE,
    CANCELLED: 2 * times.HOUR,
    AUTO_CANCELLED: 7 * times.DAY + 3 * times.MINUTE,
}
_NO_INVOICE = {"required": False, "address": None, "dueDate": None}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Line:
    """Amounts of one line item in hundredths of the currency."""

    price: int
    original: int
    quantity: int


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """One example order at one stage, as text with `%(name)s` holes, and what is needed to fill them.

    `mornings` are offsets of whole days from the purchase, `instants` other offsets in milliseconds,
    `days` offsets in milliseconds of dates without a time; `paid` is None where the document carries
    no paid amount that follows the price.
    """

    name: str
    stage: str
    status: str
    text: str
    mornings: tuple[tuple[str, int], ...]
    instants: tuple[tuple[str, int], ...]
    days: tuple[tuple[str, int], ...]
    lines: tuple[Line, ...]
    total: int
    paid: int | None
    step: int
    country: str
    guest: bool
    updated_after: int
    has_payment: bool
    method: str | None
    provider: str
    marketplace: str
    online: bool


@cache
def examples() -> dict[str, Document]:
    """The example orders by file name, in the order of their numbers."""
    folder = resources.files("allegro_simulator") / "examples"
    files = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {f.name: json.loads(f.read_text("utf-8")) for f in files if f.name.endswith(".json")}


@cache
def names() -> tuple[str, ...]:
    """Examples that show a paid order: every other stage is made from them."""
    return tuple(name for name, document in examples().items() if document["status"] == PAID)


@cache
def template(name: str, stage: str) -> Template:
    """The template made of this example at this stage."""
    document = json.loads(json.dumps(examples()[name]))
    bought = times.parsed(max(line["boughtAt"] for line in document["lineItems"])) or 0
    updated_after = (times.parsed(document["updatedAt"]) or 0) - bought
    country = document["delivery"]["address"]["countryCode"]
    online = document["payment"]["type"] == "ONLINE"
    put_into_stage(document, stage)
    lines = tuple(map(_line, document["lineItems"]))
    payment = document["payment"] or {}
    paid = cents(payment["paidAmount"]["amount"]) if payment.get("paidAmount") else 0
    total = cents(document["summary"]["totalToPay"]["amount"])
    guest = document["buyer"]["guest"]
    method = document["delivery"] and document["delivery"]["method"]["id"]
    currency = document["summary"]["totalToPay"]["currency"]
    instants: dict[str, int] = {}
    days: dict[str, int] = {}
    _mark_values(document, has_paid=paid > 0)
    marked = _mark_dates(document, bought, instants, days)
    return Template(
        name=name,
        stage=stage,
        status=document["status"],
        text=_holes(marked),
        mornings=tuple((name, ms // times.DAY) for name, ms in instants.items() if ms % times.DAY == 0),
        instants=tuple((name, ms) for name, ms in instants.items() if ms % times.DAY),
        days=tuple(days.items()),
        lines=lines,
        total=total,
        paid=paid or None,
        step=100 if currency == "CZK" else 1,
        country=country,
        guest=guest,
        updated_after=_UPDATED_AFTER.get(stage, updated_after),
        has_payment=bool(payment),
        method=method,
        provider=document["fulfillment"]["provider"]["id"],
        marketplace=document["marketplace"]["id"],
        online=online,
    )


def _line(item: Document) -> Line:
    return Line(cents(item["price"]["amount"]), cents(item["originalPrice"]["amount"]), item["quantity"])


def cents(amount: str) -> int:
    """`24.99` as 2499."""
    whole, _, part = amount.partition(".")
    return int(whole) * 100 + int(part)


def amount(value: int) -> str:
    """2499 as `24.99`."""
    return f"{value // 100}.{value % 100:02d}"


def put_into_stage(document: Document, stage: str) -> None:
    """Take away from a paid order what is not there at an earlier stage, or no more after a cancellation."""
    document["status"] = _STATUS.get(stage, stage)
    if stage in {BOUGHT, CANCELLED_EARLY}:
        _before_the_form(document)
    if stage in {FILLED_IN, AUTO_CANCELLED}:
        _before_the_payment(document)
    if stage in {FILLED_IN, AUTO_CANCELLED, CANCELLED}:
        forget_addresses(document)


def forget_addresses(document: Document) -> None:
    """What an unpaid or a cancelled order does not show; the method and its cost stay."""
    if document["delivery"]:
        document["delivery"]["address"] = None
        document["delivery"]["pickupPoint"] = None
    document["invoice"]["address"] = None


def _before_the_form(document: Document) -> None:
    total = document["summary"]["totalToPay"]
    total["amount"] = amount(cents(total["amount"]) - cents(document["delivery"]["cost"]["amount"]))
    document.update(payment=None, delivery=None, messageToSeller=None, note=None, invoice=dict(_NO_INVOICE))
    for line in document["lineItems"]:
        line["tax"] = None


def _before_the_payment(document: Document) -> None:
    document["payment"]["finishedAt"] = None
    if document["payment"]["paidAmount"]:
        document["payment"]["paidAmount"]["amount"] = "0.00"


def _mark_values(document: Document, *, has_paid: bool) -> None:
    """Put a mark into every leaf that differs from order to order; `@name@` in a text, `!name!` for a raw value."""
    document.update(id="@form@", updatedAt="@updated@", revision="@revision@")
    document["fulfillment"]["status"] = "@fulfillment@"
    document["fulfillment"]["shipmentSummary"]["lineItemsSent"] = "@sent@"
    document["summary"]["totalToPay"]["amount"] = "@total@"
    if document["status"] != BOUGHT and document["payment"]:
        document["messageToSeller"] = "!message!"
        document["payment"]["id"] = "@payment@"
    if has_paid:
        document["payment"]["paidAmount"]["amount"] = "@paid@"
    _mark_buyer(document["buyer"])
    _mark_delivery(document["delivery"] or {})
    _mark_invoice(document["invoice"]["address"] or {})
    for number, line in enumerate(document["lineItems"]):
        line["id"] = f"@line{number}@"
        line["price"]["amount"] = f"@price{number}@"
        line["originalPrice"]["amount"] = f"@original{number}@"
        line["offer"].update(id=f"@offer{number}@", name=f"@name{number}@")
        if line["offer"]["external"]:
            line["offer"]["external"]["id"] = f"@code{number}@"


def _mark_buyer(buyer: Document) -> None:
    buyer.update(id="@buyer@", email="@email@", login="@login@")
    if buyer["firstName"] is not None:
        buyer.update(firstName="@first@", lastName="@last@", phoneNumber="@phone@")
    if buyer["companyName"] is not None:
        buyer["companyName"] = "@company@"
    if buyer["address"]:
        buyer["address"].update(street="@street@", city="@city@", postCode="@zip@")


def _mark_delivery(delivery: Document) -> None:
    if address := delivery.get("address"):
        address.update(firstName="@first@", lastName="@last@", phoneNumber="@phone@")
        address.update(street="@street@", city="@city@", zipCode="@zip@")
        if address["companyName"] is not None:
            address["companyName"] = "@company@"
    if point := delivery.get("pickupPoint"):
        kind = point["name"].split(" " + point["id"])[0].split(",")[0].removesuffix(" Brno")
        point.update(id="@point@", name=f"{kind} @point@")
        point["address"].update(street="@street@", city="@city@", zipCode="@zip@")


def _mark_invoice(address: Document) -> None:
    if not address:
        return
    address.update(street="@street@", city="@city@", zipCode="@zip@")
    if address["naturalPerson"]:
        address["naturalPerson"].update(firstName="@first@", lastName="@last@")
    if company := address["company"]:
        company["name"] = "@company@"
        company["taxId"] = company["taxId"] and "@taxid@"
        for entry in company["ids"]:
            entry["value"] = "@taxid@"


def _mark_dates(node: Any, bought: int, instants: dict[str, int], days: dict[str, int]) -> Any:
    if isinstance(node, dict):
        return {key: _mark_dates(value, bought, instants, days) for key, value in node.items()}
    if isinstance(node, list):
        return [_mark_dates(value, bought, instants, days) for value in node]
    if not isinstance(node, str):
        return node
    if _INSTANT.fullmatch(node):
        offset = (times.parsed(node) or 0) - bought
        instants[f"at{offset}"] = offset
        return f"@at{offset}@"
    if _DAY.fullmatch(node):
        offset = (times.parsed(node + "T00:00:00Z") or 0) - bought // times.DAY * times.DAY
        days[f"day{offset}"] = offset
        return f"@day{offset}@"
    return node


def _holes(document: Document) -> str:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("%", "%%")
    text = re.sub(r'"!(\w+)!"', r"%(\1)s", text)
    return re.sub(r"@(\w+)@", r"%(\1)s", text)
