"""Orders as JSON Lines: the archived bytes spliced into a line, never decoded and encoded. PURE."""

import base64
from collections.abc import Iterable, Iterator

import msgspec

from orders_backup.exports.kept import CHUNK_BYTES, Kept, Page, Tally
from orders_backup.orders.shapes import document

MEDIA_TYPE = "application/x-ndjson"
SUFFIX = "jsonl"

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def stream(pages: Iterable[Page], tally: Tally) -> Iterator[bytes]:
    """One line for each order, in chunks."""
    lines: list[bytes] = []
    size = 0
    for page in pages:
        account = msgspec.json.encode(page.account_id)
        for kept, body in page.opened():
            line = _line(account, kept, body, tally)
            lines.append(line)
            size += len(line)
            if size >= CHUNK_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
        tally.passed(page)
        tally.rows += len(page.orders)
    if lines:
        yield b"".join(lines)


def _line(account: bytes, kept: Kept, body: bytes | None, tally: Tally) -> bytes:
    """JSON has line feeds and carriage returns between its tokens only, where a space says the same."""
    head = b'{"id":%b,"account_id":%b,"version":%d,"read_at":%b,"order_data":' % (
        msgspec.json.encode(kept.order_id),
        account,
        kept.version,
        msgspec.json.encode(kept.read_at),
    )
    if body is None or (kept.is_doubtful and document(body) is None):
        tally.unreadable += 1
        return b'%bnull,"order_data_base64":%b}\n' % (head, _base64(body))
    if b"\n" in body or b"\r" in body:
        body = body.translate(_ONE_LINE)
    return b"%b%b}\n" % (head, body)


def _base64(body: bytes | None) -> bytes:
    return b"null" if body is None else b'"%b"' % base64.b64encode(body)
