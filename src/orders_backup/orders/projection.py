"""The JSONB projection of an order's bytes: the text as it came, or a tamed copy where JSONB refuses that. PURE.

PostgreSQL alone knows what it refuses (NUL, lone surrogates, numbers beyond `numeric`, depth), so it is asked first.
"""

import json

MANY_BRACKETS = 900
"""With fewer no order is deeper than common readers go."""


def plain(body: bytes) -> str | None:
    """The bytes as text; None where they are not UTF-8, or so deep that common readers of JSON give up."""
    if body.count(b"[") + body.count(b"{") > MANY_BRACKETS and _is_too_deep(body):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def tame(body: bytes) -> str | None:
    """A copy that JSONB holds: replacement characters for what no text may hold, and numbers as the text they were.

    None where the bytes are no JSON that can be tamed.
    """
    try:
        value = json.loads(
            body.decode("utf-8-sig", "replace"), parse_float=_number, parse_int=_number, parse_constant=str
        )
        return json.dumps(_clean(value), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _is_too_deep(body: bytes) -> bool:
    try:
        json.loads(body)
    except RecursionError:
        return True
    except ValueError:
        return False
    return False


def _number(digits: str) -> object:
    """A number as JSON's readers agree on it; anything longer or larger as text, so that no digit is lost."""
    is_short = len(digits) <= 15 and "e" not in digits.lower() and "." not in digits
    return int(digits) if is_short else digits[:1000]


def _clean(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value
