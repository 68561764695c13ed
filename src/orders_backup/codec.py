"""Compression of archived bytes: zstd with trained dictionaries. Knows its one table and nothing of orders' meaning.

Dictionaries are trained on bytes from which every personal value was taken out, because they outlive the
erasure of any buyer.
"""

import threading
from collections.abc import Callable

import msgspec
import sqlalchemy as sa
import zstandard
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.errors import OrdersBackupError
from orders_backup.tables import codec_dictionaries

LEVEL = 3
DICTIONARY_BYTES = 32 * 1024
LEAST_BYTES = 1024
"""A dictionary smaller than this was trained on nothing worth repeating."""
TRAINING_SAMPLES = 50
"""A dictionary is trained from the first page that holds at least this many bodies."""
MAX_BODY_BYTES = 64 * 1024 * 1024

_PERSONAL = {"buyer", "address", "note", "messageToSeller", "invoice", "vouchers", "serialNumbers"}


class Codec:
    """Compresses with the newest dictionary it knows and opens with any; one per process, safe among threads."""

    def __init__(self) -> None:
        self._newest = 0
        self._contents: dict[int, bytes] = {}
        self._local = threading.local()

    def prepare(self, db: Engine, bodies: list[bytes]) -> None:
        """Learns the newest dictionary, or trains the first one when there are enough bodies.

        In a transaction of its own that is committed before the dictionary is used: no row can ever name a
        dictionary that was rolled back.
        """
        if self._newest:
            return
        with database.transaction(db) as tx:
            found = _newest(tx)
        if found is None and len(bodies) >= TRAINING_SAMPLES:
            content = train(bodies)
            if len(content) >= LEAST_BYTES:
                with database.transaction(db) as tx:
                    _keep(tx, content)
                    found = _newest(tx)
        if found is not None:
            self._contents[found[0]] = found[1]
            self._newest = found[0]

    def compress(self, body: bytes) -> tuple[int | None, bytes]:
        """The dictionary's id (None: none was used) and the compressed bytes, proven to open to the same."""
        newest = self._newest  # once: another thread may learn a dictionary meanwhile
        compressor, decompressor = self._tools(newest)
        compressed = compressor.compress(body)
        if decompressor.decompress(compressed, max_output_size=len(body) + 1) != body:
            raise OrdersBackupError("zstd did not give back the bytes it was given; nothing was stored.")
        return newest or None, compressed

    def decompress(self, tx: Connection, dictionary_id: int | None, compressed: bytes) -> bytes:
        """The archived bytes. A dictionary not yet known here is loaded with `tx`."""
        self._know(tx, dictionary_id)
        return self._tools(dictionary_id or 0)[1].decompress(compressed, max_output_size=MAX_BODY_BYTES)

    def opener(self, tx: Connection, dictionary_id: int | None) -> Callable[[bytes], bytes]:
        """What opens very many bodies of this dictionary without asking again; not for two threads at once."""
        self._know(tx, dictionary_id)
        content = self._contents.get(dictionary_id or 0)
        dictionary = zstandard.ZstdCompressionDict(content) if content else None
        tool = zstandard.ZstdDecompressor(dict_data=dictionary)
        return lambda compressed: tool.decompress(compressed, max_output_size=MAX_BODY_BYTES)

    def _know(self, tx: Connection, dictionary_id: int | None) -> None:
        if dictionary_id is not None and dictionary_id not in self._contents:
            query = sa.select(codec_dictionaries.c.content).where(codec_dictionaries.c.id == dictionary_id)
            self._contents[dictionary_id] = tx.execute(query).scalar_one()

    def _tools(self, dictionary_id: int) -> tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]:
        """A compressor and decompressor of this thread: they must not be shared among threads."""
        known: dict[int, tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]]
        known = self._local.__dict__.setdefault("tools", {})
        if dictionary_id not in known:
            content = self._contents.get(dictionary_id)
            dictionary = zstandard.ZstdCompressionDict(content) if content else None
            known[dictionary_id] = (
                zstandard.ZstdCompressor(level=LEVEL, write_dict_id=False, dict_data=dictionary),
                zstandard.ZstdDecompressor(dict_data=dictionary),
            )
        return known[dictionary_id]


def train(bodies: list[bytes]) -> bytes:
    """A dictionary from bodies without their personal values; raw content where there is too little to train on."""
    samples: list[bytes | bytearray | memoryview[int]] = [scrub(body) for body in bodies]
    try:
        return zstandard.train_dictionary(DICTIONARY_BYTES, samples).as_bytes()
    except zstandard.ZstdError:
        return b"".join(samples)[-DICTIONARY_BYTES:]


def scrub(body: bytes) -> bytes:
    """The same JSON with every text and number under a personal field emptied; nothing at all where it is not JSON."""
    try:
        return msgspec.json.encode(_scrubbed(msgspec.json.decode(body), personal=False))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return b""


def _scrubbed(value: object, *, personal: bool) -> object:
    if isinstance(value, dict):
        return {key: _scrubbed(inner, personal=personal or key in _PERSONAL) for key, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner, personal=personal) for inner in value]
    if personal and isinstance(value, str | int | float) and not isinstance(value, bool):
        return "" if isinstance(value, str) else 0
    return value


def _newest(tx: Connection) -> tuple[int, bytes] | None:
    query = sa.select(codec_dictionaries.c.id, codec_dictionaries.c.content).order_by(codec_dictionaries.c.id.desc())
    row = tx.execute(query.limit(1)).one_or_none()
    return None if row is None else (row[0], row[1])


def _keep(tx: Connection, content: bytes) -> None:
    """The first dictionary; where another process was quicker, its own stays."""
    statement = insert(codec_dictionaries).values(id=1, content=content)
    tx.execute(statement.on_conflict_do_nothing())
