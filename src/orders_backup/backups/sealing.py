"""A stream under AES-256-GCM in segments, as Tink's AES256_GCM_HKDF_1MB lays it out. No key is kept here.

A header (its length, a salt of 32 bytes, a nonce's prefix of 7) and segments of 1 MiB; the key is HKDF-SHA-256 of the
given one under the salt and what the stream is bound to; the nonce of a segment is the prefix, its number, and whether
it is the last. So a byte that changed, a segment that moved, and an end that is missing are all refused.
"""

import os
from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from orders_backup.errors import BackupDamagedError

SEGMENT = 1024 * 1024
TAG = 16
SALT = 32
PREFIX = 7
HEADER = 1 + SALT + PREFIX


def seal(key: bytes, chunks: Iterable[bytes], *, bound_to: bytes) -> Iterator[bytes]:
    """The stream, sealed. It opens only where the same is given as `bound_to`."""
    salt, prefix = os.urandom(SALT), os.urandom(PREFIX)
    tool = AESGCM(_derived(key, salt, bound_to))
    yield bytes([HEADER]) + salt + prefix
    for number, (segment, is_last) in enumerate(_segments(chunks, SEGMENT - HEADER - TAG, SEGMENT - TAG)):
        yield tool.encrypt(_nonce(prefix, number, is_last=is_last), segment, None)


def open_(key: bytes, chunks: Iterable[bytes], *, bound_to: bytes) -> Iterator[bytes]:
    """What was sealed; every byte that comes is proven, and the end is the end. Raises BackupDamagedError."""
    segments = _segments(chunks, SEGMENT, SEGMENT)
    tool, prefix = None, b""
    for number, (sealed, is_last) in enumerate(segments):
        segment = sealed
        if tool is None:
            if len(segment) < HEADER + TAG or segment[0] != HEADER:
                raise BackupDamagedError("The backup does not begin as a sealed stream does.")
            salt, prefix = segment[1 : 1 + SALT], segment[1 + SALT : HEADER]
            tool, segment = AESGCM(_derived(key, salt, bound_to)), segment[HEADER:]
        try:
            yield tool.decrypt(_nonce(prefix, number, is_last=is_last), segment, None)
        except InvalidTag:
            raise BackupDamagedError("The backup was changed, cut off, or sealed with another key.") from None


def _segments(chunks: Iterable[bytes], first: int, size: int) -> Iterator[tuple[bytes, bool]]:
    """Pieces of this size, the first of its own, and whether it is the last; there is always a last one."""
    held, wanted = bytearray(), first
    for chunk in chunks:
        held += chunk
        while len(held) > wanted:
            yield bytes(held[:wanted]), False
            del held[:wanted]
            wanted = size
    yield bytes(held), True


def _derived(key: bytes, salt: bytes, bound_to: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=bound_to).derive(key)


def _nonce(prefix: bytes, number: int, *, is_last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([is_last])
