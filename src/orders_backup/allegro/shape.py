"""Allegro's documents as they are known today: fields, types and values. PURE, and nothing but shapes.

Written by hand from Allegro's OpenAPI file of 2026-07-18 and what the wire adds to it. Nothing is refused because of
this: a document of another shape is archived like any other, and the difference noted. Required here are the
fields that Allegro requires, and those that every order seen so far had.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType, field

Text = str | UnsetType | None
Flag = bool | UnsetType | None
Number = int | float | UnsetType | None


class _Known(msgspec.Struct, forbid_unknown_fields=True, rename="camel", gc=False, omit_defaults=True):
    """An absent field is not the same as one that is null."""


class Price(_Known):
    amount: str
    currency: str


Money = Price | UnsetType | None


class Preferences(_Known):
    language: Text = UNSET


class BuyerAddress(_Known):
    street: Text = UNSET
    city: Text = UNSET
    post_code: Text = UNSET
    country_code: Text = UNSET


class Buyer(_Known):
    id: str
    email: str
    login: str
    guest: bool
    first_name: Text = UNSET
    last_name: Text = UNSET
    company_name: Text = UNSET
    personal_identity: Text = UNSET
    phone_number: Text = UNSET
    preferences: Preferences | UnsetType | None = UNSET
    address: BuyerAddress | UnsetType | None = UNSET


PaymentType = Literal["CASH_ON_DELIVERY", "WIRE_TRANSFER", "ONLINE", "SPLIT_PAYMENT", "EXTENDED_TERM"]
Provider = Literal["PAYU", "P24", "AF", "OFFLINE", "EPT"]


class Payment(_Known):
    id: str
    type: PaymentType
    provider: Provider | UnsetType | None = UNSET
    finished_at: Text = UNSET
    paid_amount: Money = UNSET
    reconciliation: Money = UNSET
    features: list[str] | UnsetType | None = UNSET


class ShipmentSummary(_Known):
    line_items_sent: Literal["NONE", "SOME", "ALL"] | UnsetType | None = UNSET


class Warehouse(_Known):
    id: Literal["SELLER", "ALLEGRO"] | UnsetType | None = UNSET


FulfillmentStatus = Literal[
    "NEW",
    "PROCESSING",
    "READY_FOR_SHIPMENT",
    "READY_FOR_PICKUP",
    "SENT",
    "PICKED_UP",
    "CANCELLED",
    "SUSPENDED",
    "RETURNED",
]


class Fulfillment(_Known):
    status: FulfillmentStatus | None
    shipment_summary: ShipmentSummary | UnsetType | None = UNSET
    provider: Warehouse | UnsetType | None = UNSET


class DeliveryAddress(_Known):
    first_name: str
    last_name: str
    street: str
    city: str
    zip_code: str
    country_code: str
    company_name: Text = UNSET
    phone_number: Text = UNSET
    modified_at: Text = UNSET


class Method(_Known):
    id: Text = UNSET
    name: Text = UNSET


class PointAddress(_Known):
    street: Text = UNSET
    zip_code: Text = UNSET
    city: Text = UNSET
    country_code: Text = UNSET


class PickupPoint(_Known):
    id: Text = UNSET
    name: Text = UNSET
    description: Text = UNSET
    address: PointAddress | UnsetType | None = UNSET


class Span(_Known):
    from_: Text = field(default=UNSET, name="from")
    to: Text = UNSET


class DeliveryTime(_Known):
    from_: Text = field(default=UNSET, name="from")
    to: Text = UNSET
    guaranteed: Span | UnsetType | None = UNSET
    dispatch: Span | UnsetType | None = UNSET


class Cancellation(_Known):
    date: str


class Delivery(_Known):
    address: DeliveryAddress | UnsetType | None = UNSET
    method: Method | UnsetType | None = UNSET
    pickup_point: PickupPoint | UnsetType | None = UNSET
    cost: Money = UNSET
    time: DeliveryTime | UnsetType | None = UNSET
    smart: Flag = UNSET
    cancellation: Cancellation | UnsetType | None = UNSET
    calculated_number_of_packages: Number = UNSET


IdType = Literal["PL_NIP", "CZ_ICO", "CZ_DIC", "HU_ADOSZAM", "SK_ICO", "SK_IC_DPH", "VAT_EU", "OTHER"]


class CompanyId(_Known):
    type: IdType
    value: str


class Company(_Known):
    name: str
    vat_payer_status: Literal["ACTIVE", "NON_ACTIVE", "NOT_APPLICABLE"]
    ids: list[CompanyId] | UnsetType | None = UNSET
    tax_id: Text = UNSET


class Person(_Known):
    first_name: str
    last_name: str


class InvoiceAddress(_Known):
    street: str
    city: str
    zip_code: str
    country_code: str
    company: Company | UnsetType | None = UNSET
    natural_person: Person | UnsetType | None = UNSET


class Invoice(_Known):
    required: bool
    address: InvoiceAddress | UnsetType | None = UNSET
    due_date: Text = UNSET
    features: list[str] | UnsetType | None = UNSET


class External(_Known):
    id: Text = UNSET


class Product(_Known):
    id: str
    quantity: Number = UNSET


class ProductSet(_Known):
    products: list[Product]


class Offer(_Known):
    id: str
    name: str
    external: External | UnsetType | None = UNSET
    product_set: ProductSet | UnsetType | None = UNSET
    hs_number: Text = UNSET


class Deposit(_Known):
    price: Price


class Reconciliation(_Known):
    value: Money = UNSET
    type: Literal["BILLING", "WALLET"] | UnsetType | None = UNSET
    quantity: Number = UNSET


class Service(_Known):
    definition_id: Text = UNSET
    name: Text = UNSET
    price: Money = UNSET
    quantity: Number = UNSET


class Voucher(_Known):
    type: Literal["NOTEBOOKS_FOR_TEACHERS"]
    code: Text = UNSET
    status: Literal["ACTIVE", "CANCELLED"] | UnsetType | None = UNSET
    external_transaction_id: Text = UNSET
    value: Money = UNSET


class Tax(_Known):
    rate: Text = UNSET
    subject: Text = UNSET
    exemption: Text = UNSET


DiscountType = Literal[
    "BUNDLE",
    "UNIT_PERCENTAGE_DISCOUNT",
    "WHOLESALE_PRICE_LIST",
    "LARGE_ORDER_DISCOUNT",
    "TURNOVER_DISCOUNT",
    "COUPON",
    "CAMPAIGN",
]


class Discount(_Known):
    type: DiscountType | UnsetType | None = UNSET


class SerialNumber(_Known):
    value: str
    returned: Flag = UNSET


class SerialNumbers(_Known):
    expected: Flag = UNSET
    entries: list[SerialNumber] | UnsetType | None = UNSET


class LineItem(_Known):
    id: str
    offer: Offer
    quantity: int | float
    original_price: Price
    price: Price
    bought_at: str | None
    deposit: Deposit | UnsetType | None = UNSET
    reconciliation: Reconciliation | UnsetType | None = UNSET
    selected_additional_services: list[Service] | UnsetType | None = UNSET
    vouchers: list[Voucher] | UnsetType | None = UNSET
    tax: Tax | UnsetType | None = UNSET
    discounts: list[Discount] | UnsetType | None = UNSET
    serial_numbers: SerialNumbers | UnsetType | None = UNSET


class Note(_Known):
    text: Text = UNSET


class Marketplace(_Known):
    id: str


class Summary(_Known):
    total_to_pay: Price


class Order(_Known):
    """GET /order/checkout-forms/{id}, and an element of the list."""

    id: str
    buyer: Buyer
    status: Literal["BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING", "CANCELLED"]
    line_items: list[LineItem]
    surcharges: list[Payment]
    summary: Summary
    payment: Payment | None
    fulfillment: Fulfillment | None
    delivery: Delivery | None
    invoice: Invoice | None
    marketplace: Marketplace | None
    updated_at: str | None
    message_to_seller: Text = UNSET
    note: Note | UnsetType | None = UNSET
    revision: Text = UNSET


class EventOffer(_Known):
    id: str
    name: str
    external: External | UnsetType | None = UNSET


class EventLineItem(_Known):
    id: str
    offer: EventOffer
    quantity: int | float
    price: Price
    original_price: Money = UNSET
    bought_at: Text = UNSET


class EventBuyer(_Known):
    id: str
    email: str
    login: str
    guest: bool
    preferences: Preferences | UnsetType | None = UNSET


class EventSeller(_Known):
    id: str


class Form(_Known):
    id: str
    revision: Text = UNSET


class EventOrder(_Known):
    seller: EventSeller
    buyer: EventBuyer
    line_items: list[EventLineItem]
    checkout_form: Form | None
    marketplace: Marketplace | UnsetType | None = UNSET


EventType = Literal[
    "BOUGHT",
    "FILLED_IN",
    "READY_FOR_PROCESSING",
    "BUYER_CANCELLED",
    "FULFILLMENT_STATUS_CHANGED",
    "BUYER_MODIFIED",
    "AUTO_CANCELLED",
]


class Event(_Known):
    """An element of GET /order/events."""

    id: str
    order: EventOrder
    type: EventType
    occurred_at: str


KNOWN: dict[str, type[msgspec.Struct]] = {"order": Order, "event": Event}
