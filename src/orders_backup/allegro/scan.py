"""JSON taken apart by its brackets alone: for bytes that no strict reader takes as a whole. PURE, and linear.

Any depth, half an emoji, bytes that are no UTF-8: what stands between the brackets is handed on as it came. Only where
they do not end as they began nothing can be told apart.
"""

import re
from collections.abc import Iterator

_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[\]{},:]', re.DOTALL)
"""Possessive, so that no text, however long or unended, is ever walked twice."""
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_QUOTE, _COMMA, _COLON = b'",:'
_BETWEEN = b",:"
_CLOSING = {ord("["): ord("]"), ord("{"): ord("}")}


def elements(text: bytes) -> list[bytes]:
    """The elements of an array, each as its bytes. ValueError where it is none, or does not end."""
    return [value for _, value in _parts(text, ord("["))]


def members(text: bytes) -> dict[bytes, bytes]:
    """The members of an object by their names as they were written, quotes included; of equal names the last one.

    ValueError where it is none, or does not end.
    """
    return {name: value for name, value in _parts(text, ord("{")) if name is not None}


def _parts(text: bytes, opening: int) -> list[tuple[bytes | None, bytes]]:
    """Names and values between the outermost brackets; in an array nothing has a name."""
    found: list[tuple[bytes | None, bytes]] = []
    name, start = None, 0
    for sign, begin, end in _outermost(text, opening):
        part = text[start:begin].strip(_SPACE)
        if sign == _COLON and name is None:
            name, start = part, end
        elif sign == _COMMA:
            found.append((name, part))
            name, start = None, end
        elif sign == opening:
            start = end
        elif sign != _COLON and (part or name is not None):
            found.append((name, part))
    return found


def _outermost(text: bytes, opening: int) -> Iterator[tuple[int, int, int]]:
    """The outermost brackets, and the commas and colons right inside them: sign, where it begins, where it ends."""
    begin = len(_BOM) if text.startswith(_BOM) else 0
    awaited = bytearray()
    for token in _TOKENS.finditer(text, begin):
        sign, place = text[token.start()], token.span()
        if sign == _QUOTE and token[1]:
            continue
        if not awaited:
            _must_be_space(text[begin : place[0]])
            if sign != opening:
                break
            awaited.append(_CLOSING[sign])
            yield (sign, *place)
        elif sign in _CLOSING:
            awaited.append(_CLOSING[sign])
        elif sign not in _BETWEEN:
            if awaited.pop() != sign:
                break
            if not awaited:
                _must_be_space(text[place[1] :])
                yield (sign, *place)
                return
        elif len(awaited) == 1:
            yield (sign, *place)
    raise ValueError("The brackets do not end as they began.")


def _must_be_space(text: bytes) -> None:
    if text.strip(_SPACE):
        raise ValueError("Something stands beside the brackets.")
