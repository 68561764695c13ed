"""Numbers of the product made small, so that a shop of ten orders has pages, halves and ends of slices too."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from types import ModuleType
from typing import Any

from sqlalchemy.engine import Engine

from orders_backup import db as database
from orders_backup import worker as background
from orders_backup.allegro import client
from orders_backup.sync import listing, plan
from orders_backup.sync.plan import Window
from orders_backup.webhooks import outbox


@contextlib.contextmanager
def turned(*, small: bool) -> Iterator[None]:
    """Within the block a page of the list holds 4 orders, one of the journal 12 events, and 10 orders are too many."""
    if not small:
        yield
        return
    numbers: list[tuple[ModuleType, str, int]] = [
        (client, "LIST_LIMIT", 4),
        (client, "EVENTS_LIMIT", 12),
        (plan, "PAGE", 4),
        (plan, "SPLIT_ABOVE", 10),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in numbers]
    defaults: list[dict[str, Any]] = [function.__kwdefaults__ or {} for function in (plan.fault, listing.ask)]
    for module, name, value in numbers:
        setattr(module, name, value)
    for one in defaults:
        one["limit"] = 4
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
        for one in defaults:
            one["limit"] = plan.PAGE


@contextlib.contextmanager
def unplayed() -> Iterator[None]:
    """Within the block the scheduler does not ring for webhooks and exports, of which no story has any."""
    rested = {task: background.TABLES.pop(task) for task in ("deliver", "export")}
    wake = outbox.wake
    vars(outbox)["wake"] = lambda _: None
    try:
        yield
    finally:
        background.TABLES |= rested
        vars(outbox)["wake"] = wake


@contextlib.contextmanager
def long_months() -> Iterator[None]:
    """Within the block a window of a reconcile holds four months: what goes wrong in one of three does in one of 13."""
    months = plan.months

    def fewer(since: datetime, until: datetime) -> list[Window]:
        found = months(since, until)
        return [
            Window(some[-1].since, some[0].until, "ids")
            for some in (found[at : at + 4] for at in range(0, len(found), 4))
        ]

    vars(plan)["months"] = fewer
    try:
        yield
    finally:
        vars(plan)["months"] = months


@contextlib.contextmanager
def engine(given: Engine) -> Iterator[None]:
    """Within the block a process that is put together gets this engine, and makes none of its own."""
    kept = database.connect
    vars(database)["connect"] = lambda *_, **__: given
    try:
        yield
    finally:
        vars(database)["connect"] = kept
