"""What belongs to an order beside its form: tracking numbers, invoices, returns, refunds. Documents and what happens.

Nothing here tells the journal, as at Allegro: no event says that a parcel got another number or a return went on.
"""

import base64
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from allegro_simulator import orders, times
from allegro_simulator.orders import Order

KINDS = ("shipments", "invoices", "returns", "refunds")
RETURN_STEPS = ("CREATED", "DISPATCHED", "IN_TRANSIT", "DELIVERED", "FINISHED")

Document = dict[str, Any]


@dataclass(slots=True, eq=False)
class Extra:
    """One document as it is on the wire now. `created`: milliseconds; `served` and `versions` are SHA-256 of bodies."""

    kind: str
    id: str
    order: Order
    created: int
    body: bytes
    served: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


Drawer = dict[str, dict[str, Extra]]
"""A seller's documents by kind and id."""


def drawer() -> Drawer:
    return {kind: {} for kind in KINDS}


def of_order(drawer: Drawer, kind: str, order: Order) -> Extra:
    """The one document of this kind that every order has; made when it is first asked for."""
    found = drawer[kind].get(order.id)
    if found is None:
        made = _shipments(order) if kind == "shipments" else _invoices(order)
        found = Extra(kind, order.id, order, order.bought, b"")
        write(found, made)
        drawer[kind][order.id] = found
    return found


def write(extra: Extra, document: Document | bytes) -> None:
    """Make this the current version; bytes may be anything at all."""
    extra.body = document if isinstance(document, bytes) else minified(document)
    sha = hashlib.sha256(extra.body).hexdigest()
    if extra.versions[-1:] != [sha]:
        extra.versions.append(sha)


def note(extra: Extra) -> None:
    """Remember that this version left the house."""
    sha = extra.versions[-1]
    if extra.served[-1:] != [sha]:
        extra.served.append(sha)


def past(drawer: Drawer, many: list[Order], now: int) -> None:
    """What earlier orders left behind: a return and a refund of each that came back."""
    for order in many:
        if order.fulfillment == "RETURNED":
            at = min(order.bought + 9 * times.DAY, now)
            returned = comes_back(drawer, order, at)
            goes_on(returned, "FINISHED")
            settles(refunded(drawer, order, at))


# What happens


def shipped(drawer: Drawer, order: Order, now: int) -> None:
    """A parcel gets its number, unless it has one."""
    extra = of_order(drawer, "shipments", order)
    document = json.loads(extra.body)
    if not document["shipments"]:
        document["shipments"].append(_shipment(order, 1, now))
        write(extra, document)


def changes_tracking(drawer: Drawer, order: Order, now: int) -> None:
    """Another parcel number in place of the last one, or the first one."""
    extra = of_order(drawer, "shipments", order)
    document = json.loads(extra.body)
    document["shipments"][-1:] = [_shipment(order, len(extra.versions) + 1, now)]
    write(extra, document)


def adds_invoice(drawer: Drawer, order: Order, now: int) -> None:
    extra = of_order(drawer, "invoices", order)
    document = json.loads(extra.body)
    document["invoices"].append(_invoice(order, len(document["invoices"]) + 1, now, "WAITING"))
    write(extra, document)


def comes_back(drawer: Drawer, order: Order, now: int) -> Extra:
    """The buyer declares a return."""
    number = sum(one.order is order for one in drawer["returns"].values()) + 1
    extra = Extra("returns", _id("return", order, number), order, now, b"")
    write(extra, _return(extra, number))
    drawer["returns"][extra.id] = extra
    return extra


def goes_on(extra: Extra, status: str | None = None) -> None:
    """The return takes its next step, or the one named."""
    document = json.loads(extra.body)
    place = RETURN_STEPS.index(document["status"])
    document["status"] = status or RETURN_STEPS[min(place + 1, len(RETURN_STEPS) - 1)]
    if document["status"] != "CREATED" and not document["parcels"]:
        document["parcels"].append(_returned_parcel(extra))
    write(extra, document)


def refunded(drawer: Drawer, order: Order, now: int) -> Extra:
    """The seller gives money back; it is on its way."""
    number = sum(one.order is order for one in drawer["refunds"].values()) + 1
    extra = Extra("refunds", _id("refund", order, number), order, now, b"")
    write(extra, _refund(extra))
    drawer["refunds"][extra.id] = extra
    return extra


def settles(extra: Extra) -> None:
    document = json.loads(extra.body)
    document["status"] = "SUCCESS"
    write(extra, document)


# Documents


def minified(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _id(what: str, order: Order, number: int) -> str:
    digest = hashlib.blake2b(f"{what}:{order.id}:{number}".encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def _number(order: Order, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{order.id}:{number}".encode(), digest_size=6).digest(), "big")


def _form(order: Order) -> Document:
    found: Document = json.loads(orders.body(order))
    return found


def _shipments(order: Order) -> Document:
    has_left = order.sent == "ALL"
    return {"shipments": [_shipment(order, 1, order.bought + times.DAY)] if has_left else []}


def _shipment(order: Order, number: int, now: int) -> Document:
    waybill = f"6{_number(order, number):015d}"[:24]
    return {
        "id": base64.b64encode(f"INPOST:{waybill}".encode()).decode(),
        "waybill": waybill,
        "carrierId": "INPOST",
        "carrierName": None,
        "lineItems": [{"id": line["id"]} for line in _form(order)["lineItems"]],
        "createdAt": times.text(now),
    }


def _invoices(order: Order) -> Document:
    """Every third paid order had an invoice the day after."""
    has_one = order.sent == "ALL" and order.number % 3 == 0
    found = [_invoice(order, 1, order.bought + times.DAY, "ACCEPTED")] if has_one else []
    return {"orderMode": "REGULAR", "invoices": found, "links": [], "hasExternalInvoices": False}


def _invoice(order: Order, number: int, now: int, status: str) -> Document:
    at = times.text(now)
    verified = at if status == "ACCEPTED" else None
    return {
        "id": _id("invoice", order, number),
        "invoiceNumber": f"FV/{order.number}/{number}",
        "createdAt": at,
        "file": {
            "name": f"faktura-{order.number}-{number}.pdf",
            "uploadedAt": at,
            "securityVerification": {"status": status, "verifiedAt": verified},
            "verification": {"status": "NOT_APPLICABLE", "details": []},
        },
    }


def _return(extra: Extra, number: int) -> Document:
    form = _form(extra.order)
    return {
        "id": extra.id,
        "isFulfillment": False,
        "createdAt": times.text(extra.created),
        "referenceNumber": f"{extra.order.number:06d}/{number}",
        "orderId": extra.order.id,
        "buyer": {"email": form["buyer"]["email"], "login": form["buyer"]["login"]},
        "items": [
            {
                "offerId": line["offer"]["id"],
                "quantity": line["quantity"],
                "name": line["offer"]["name"],
                "price": line["price"],
                "url": f"https://allegro.example/oferta/{line['offer']['id']}",
                "reason": {"type": "DONT_LIKE_IT", "userComment": "Zażółć gęślą jaźń"},
                "serialNumbers": [],
            }
            for line in form["lineItems"]
        ],
        "refund": None,
        "parcels": [],
        "rejection": None,
        "marketplaceId": form["marketplace"]["id"],
        "status": "CREATED",
    }


def _returned_parcel(extra: Extra) -> Document:
    return {
        "createdAt": times.text(extra.created),
        "waybill": f"7{_number(extra.order, 99):015d}"[:24],
        "transportingWaybill": None,
        "carrierId": "INPOST",
        "transportingCarrierId": None,
        "sender": {"phoneNumber": "+48 500 000 000"},
    }


def _refund(extra: Extra) -> Document:
    form = _form(extra.order)
    total = form["summary"]["totalToPay"]
    return {
        "id": extra.id,
        "payment": {"id": orders.payment_id(extra.order)},
        "order": {"id": extra.order.id},
        "reason": "REFUND",
        "status": "IN_PROGRESS",
        "createdAt": times.text(extra.created),
        "totalValue": {"amount": total["amount"], "currency": total["currency"]},
        "lineItems": [
            {"id": line["id"], "type": "QUANTITY", "quantity": line["quantity"]} for line in form["lineItems"]
        ],
        "deposits": [],
        "delivery": None,
        "overpaid": None,
        "surcharges": [],
        "additionalServices": None,
        "sellerComment": None,
    }
