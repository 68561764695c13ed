"""JSON taken apart by its brackets alone: for bytes that no strict reader takes as a whole. PURE, and linear.

Any depth, half an emoji, bytes that are no UTF-8: what stands between the brackets is handed on as it came. Only where
they do not end as they began nothing can be told apart.
"""

import re

_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[\]{},:]', re.DOTALL)
"""Possessive, so that no text, however long or unended, is ever walked twice."""
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_QUOTE, _COMMA, _COLON = b'",:'
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
    begin = len(_BOM) if text.startswith(_BOM) else 0
    found: list[tuple[bytes | None, bytes]] = []
    open_ones = bytearray()
    name: bytes | None = None
    start = begin
    for token in _TOKENS.finditer(text, begin):
        sign = text[token.start()]
        if sign == _QUOTE:
            if not token[1]:
                break
        elif sign in _CLOSING:
            if not open_ones:
                _must_be_space(text[begin : token.start()])
                if sign != opening:
                    break
                start = token.end()
            open_ones.append(_CLOSING[sign])
        elif not open_ones:
            break
        elif sign not in b",:":
            if open_ones.pop() != sign:
                break
            if not open_ones:
                _must_be_space(text[token.end() :])
                last = text[start : token.start()].strip(_SPACE)
                return [*found, (name, last)] if last or name is not None else found
        elif len(open_ones) == 1:
            part, start = text[start : token.start()].strip(_SPACE), token.end()
            if sign == _COMMA:
                found.append((name, part))
                name = None
            elif name is None:
                name = part
    raise ValueError("The brackets do not end as they began.")


def _must_be_space(text: bytes) -> None:
    if text.strip(_SPACE):
        raise ValueError("Something stands beside the brackets.")
