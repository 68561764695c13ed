"""Sealing and signing under the operator's keys: secrets by AES-256-GCM, bound to where the value belongs; what
callers carry for us, by HMAC-SHA-256. Knows no table."""

import base64
import hmac
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orders_backup.errors import SealedValueError, SettingsError

_FORMAT = b"\x01"
_NONCE = 12
_SIGNATURE = 16


@dataclass(frozen=True, slots=True)
class Vault:
    """Keys by id; the first seals, all open."""

    keys: dict[str, bytes] = field(repr=False)

    def seal(self, secret: str, *bound_to: object) -> bytes:
        """format, key id, nonce, ciphertext. `bound_to` (account, generation, field) must be given again to open."""
        key_id, key = next(iter(self.keys.items()))
        nonce = os.urandom(_NONCE)
        head = _FORMAT + bytes([len(key_id)]) + key_id.encode()
        return head + nonce + AESGCM(key).encrypt(nonce, secret.encode(), head + _association(bound_to))

    def open(self, sealed: bytes, *bound_to: object) -> str:
        """The secret. Raises SealedValueError for an unknown key, a changed byte, or a value from elsewhere."""
        if sealed[:1] != _FORMAT or len(sealed) < 2 + _NONCE:
            raise SealedValueError("The sealed value has an unknown format.")
        split = 2 + sealed[1]
        head, nonce, ciphertext = sealed[:split], sealed[split : split + _NONCE], sealed[split + _NONCE :]
        key = self.keys.get(head[2:].decode(errors="replace"))
        if key is None:
            raise SealedValueError("The sealed value needs a key that ENCRYPTION_KEYS no longer lists.")
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, head + _association(bound_to)).decode()
        except (InvalidTag, ValueError):
            raise SealedValueError("The sealed value was changed, or belongs elsewhere.") from None

    def sign(self, content: bytes, *, purpose: str) -> bytes:
        """The content behind a signature of 16 bytes, which holds for this purpose alone."""
        return _signature(next(iter(self.keys.values())), content, purpose) + content

    def signed(self, presented: bytes, *, purpose: str) -> bytes | None:
        """The content of what `sign` gave out under any of the keys; None for anything else."""
        signature, content = presented[:_SIGNATURE], presented[_SIGNATURE:]
        found = [hmac.compare_digest(signature, _signature(key, content, purpose)) for key in self.keys.values()]
        return content if any(found) else None


def from_keys(keys: list[tuple[str, bytes]]) -> Vault:
    """A vault of the keys in ENCRYPTION_KEYS. Raises SettingsError where there is none."""
    if not keys:
        raise SettingsError(
            "ENCRYPTION_KEYS is not set. Write ENCRYPTION_KEYS=key1:$(head -c 32 /dev/urandom | base64) and keep it"
            " safe: without it no login can be opened again."
        )
    return Vault(dict(keys))


def new_key() -> str:
    """A fresh key in the form of ENCRYPTION_KEYS."""
    return "key1:" + base64.urlsafe_b64encode(os.urandom(32)).decode()


def _association(bound_to: tuple[object, ...]) -> bytes:
    return b"\x1f".join(str(part).encode() for part in bound_to)


def _signature(key: bytes, content: bytes, purpose: str) -> bytes:
    own = hmac.digest(key, f"sign {purpose}".encode(), "sha256")  # never the key that seals
    return hmac.digest(own, content, "sha256")[:_SIGNATURE]
