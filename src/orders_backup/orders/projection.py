"""The JSONB projection of an order's bytes: the text as it came where JSONB can hold it, else a tamed copy. PURE."""

import json
import re

_SUSPICIOUS = re.compile(rb"\\u0000|\\u[dD][89a-fA-F]|[eE][+-]?\d{3}|\d{300}|\x00")
"""What JSONB may refuse: NUL, surrogates, and numbers beyond `numeric`. Rare, so a match only means: look closer."""
MAX_DEPTH = 900
_PLAIN_BYTES = 1_000_000


def project(body: bytes) -> tuple[str | None, bool]:
    """The text for the JSONB column and whether it lost anything; None where the bytes are no JSON we can tame."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _tamed(body.decode("utf-8", "replace"))
    if len(body) <= _PLAIN_BYTES and body.count(b"[") + body.count(b"{") < MAX_DEPTH and not _SUSPICIOUS.search(body):
        return text, False
    return _tamed(text)


def _tamed(text: str) -> tuple[str | None, bool]:
    try:
        value = json.loads(text, parse_float=_number, parse_int=_number, parse_constant=str)
        tamed = json.dumps(_clean(value), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None, True
    return tamed, True


def _number(digits: str) -> object:
    """A number as JSON's readers agree on it; anything longer or larger as text, so that no digit is lost."""
    is_plain = len(digits) <= 15 and "e" not in digits.lower() and "." not in digits
    return int(digits) if is_plain else digits[:1000]


def _clean(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value
