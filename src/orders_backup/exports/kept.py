"""What an export is made of: orders as they are kept, page by page, and what was counted on the way. PURE."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


class Kept(NamedTuple):
    """An order's head and the compressed bytes of its newest version (None: there are none). `is_doubtful`: the bytes
    may be no JSON; of all others PostgreSQL has proven that they are."""

    order_id: str
    version: int
    is_doubtful: bool
    ordered_at: datetime | None
    superseded_by: str | None
    gone_at: datetime | None
    read_at: datetime | None
    dictionary_id: int | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some orders of one account, in the order of their ids. `open_body` decompresses with the dictionary named."""

    account_id: UUID
    seller_login: str
    orders: list[Kept]
    open_body: Callable[[int | None, bytes], bytes]

    def opened(self) -> Iterator[tuple[Kept, bytes | None]]:
        """Each order with its exact bytes. One body at a time is held."""
        for kept in self.orders:
            yield kept, None if kept.body is None else self.open_body(kept.dictionary_id, kept.body)


@dataclass(frozen=True, slots=True)
class Place:
    """The order after which a walk goes on."""

    account_id: UUID
    order_id: str


@dataclass(slots=True)
class Tally:
    """What went through so far. `rows`: lines of the file without its header; `unreadable`: orders whose bytes are no
    JSON; `left_out`: amounts and times that the format cannot hold exactly, which are empty there."""

    orders: int = 0
    rows: int = 0
    unreadable: int = 0
    left_out: int = 0
    place: Place | None = None

    def passed(self, page: Page) -> None:
        """Every order of the page went through."""
        self.orders += len(page.orders)
        self.place = Place(page.account_id, page.orders[-1].order_id)


CHUNK_BYTES = 256 * 1024
"""What is handed on at once, about."""
