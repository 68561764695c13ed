"""Standard Webhooks: secrets, message ids, bodies and signatures. PURE: no I/O, no clock.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

SECRET_BYTES = 32
_PREFIX = "whsec_"
_ID = re.compile(r"msg_([0-9a-f]{32})_(t?)([0-9]{1,19})")


def new_secret() -> str:
    """A fresh signing secret, as receivers paste it into their library."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def message_id(webhook_id: UUID, seq: int) -> str:
    """The same for every attempt of a message, a replay included: receivers know by it what they have had."""
    return f"msg_{webhook_id.hex}_{seq}" if seq > 0 else f"msg_{webhook_id.hex}_t{-seq}"


def seq_of(webhook_id: UUID, text: str) -> int | None:
    """The number in such an id; None where it is not one of this endpoint."""
    match = _ID.fullmatch(text)
    if match is None or UUID(match[1]) != webhook_id or int(match[3]) >= 2**63:
        return None
    return -int(match[3]) if match[2] else int(match[3])


def headers(held: Sequence[str], message: str, body: bytes, *, now: datetime) -> dict[str, str]:
    """The three headers. `held`: the secrets in force, the newest first; each of them signs."""
    timestamp = int(now.timestamp())
    signed = f"{message}.{timestamp}.".encode() + body
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in held),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
