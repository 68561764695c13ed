"""What lies in the bucket and must be ours: JSON, and on a line of its own its signature under ENCRYPTION_KEYS."""

from typing import TypeVar

import msgspec

from orders_backup.vault import Vault

SIGNATURE = 16
Kind = TypeVar("Kind")


def signed(vault: Vault, told: object, *, purpose: str) -> bytes:
    content = msgspec.json.encode(told)
    return content + b"\n" + vault.sign(content, purpose=purpose)[:SIGNATURE].hex().encode() + b"\n"


def opened(vault: Vault, found: bytes, kind: type[Kind], *, purpose: str) -> Kind | None:
    """None where it was changed, or signed with another key or for another purpose."""
    content, _, signature = found.rstrip(b"\n").rpartition(b"\n")
    try:
        is_ours = vault.signed(bytes.fromhex(signature.decode()) + content, purpose=purpose) is not None
        return msgspec.json.decode(content, type=kind) if is_ours else None
    except (ValueError, msgspec.MsgspecError):
        return None
