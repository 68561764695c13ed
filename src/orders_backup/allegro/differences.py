"""In what a document differs from the shape known today: never what it holds, only where and of which type. PURE."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UnsetType, inspect

from orders_backup.allegro.shape import KNOWN

MOST = 20
"""Differences told of one document."""
ELEMENTS = 50
"""How many elements of a list are looked at."""

_readers = {name: msgspec.json.Decoder(known) for name, known in KNOWN.items()}
_types = {name: inspect.type_info(known) for name, known in KNOWN.items()}
_write = msgspec.json.Encoder().encode
_NAME = re.compile(r"(?!(?:.*\d){4})[A-Za-z_][A-Za-z0-9_-]{0,59}")
_VALUE = re.compile(r"(?!(?:.*\d){4})[A-Z][A-Z0-9_]{0,59}")
"""Many digits would be somebody's number."""
_SIGNATURE = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """`kind`: new_field, vanished_field, unknown_value, other_type or repeated_field. `value`: the unknown value of an
    enumeration, else the JSON type found; never what a field holds."""

    path: str
    kind: str
    value: str


def stumble(document: str, body: bytes) -> str | None:
    """What a strict reader of today's shape stumbles over first, in its own words; None where it takes the document
    and would write it just as long. Costs some microseconds."""
    try:
        value = _readers[document].decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return str(error)[:_SIGNATURE]
    return None if len(_write(value)) == len(body) else "written otherwise"


def differences(document: str, body: bytes) -> list[Difference]:
    """In what a document differs from today's shape, each difference once; nothing where it is no JSON."""
    repeated: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        kept = dict(pairs)
        if len(kept) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend({name for name in names if names.count(name) > 1} if len(names) < 1000 else {"*"})
        return kept

    try:
        value = json.loads(body.decode("utf-8", "replace"), object_pairs_hook=members, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return []
    found = {Difference(f"{document}.**.{_named(name)}", "repeated_field", ""): None for name in repeated[:MOST]}
    for difference in _compared(_types[document], value, document):
        found[difference] = None
        if len(found) >= MOST:
            break
    return list(found)


def _compared(known: inspect.Type, value: object, path: str) -> Iterator[Difference]:
    if isinstance(known, inspect.UnionType):
        if value is not None or not known.includes_none:
            yield from _compared(_meant(known), value, path)
    elif not isinstance(value, _python(known)) or (isinstance(value, bool) and not isinstance(known, inspect.BoolType)):
        yield Difference(path, "other_type", _type_of(value))
    elif isinstance(known, inspect.StructType):
        yield from _members(known, value, path)
    elif isinstance(known, inspect.ListType):
        for element in value[:ELEMENTS]:  # type: ignore[index]
            yield from _compared(known.item_type, element, f"{path}[]")
    elif isinstance(known, inspect.LiteralType) and value not in known.values:
        shown = _VALUE.fullmatch(str(value))
        yield Difference(path, "unknown_value", shown[0] if shown else "(of another form)")


def _members(known: inspect.StructType, value: Any, path: str) -> Iterator[Difference]:
    fields = {one.encode_name: one for one in known.fields}
    for name, inner in value.items():
        if name not in fields:
            yield Difference(f"{path}.{_named(name)}", "new_field", _type_of(inner))
    for name, one in fields.items():
        if name in value:
            yield from _compared(one.type, value[name], f"{path}.{name}")
        elif one.required:
            yield Difference(f"{path}.{name}", "vanished_field", "")


def _meant(known: inspect.UnionType) -> inspect.Type:
    """The type beside null and absence; of several numbers the widest."""
    return next(one for one in reversed(known.types) if not isinstance(one, inspect.NoneType) and not _is_unset(one))


def _is_unset(known: inspect.Type) -> bool:
    return isinstance(known, inspect.CustomType) and known.cls is UnsetType


_PYTHON: dict[type[inspect.Type], type] = {
    inspect.StructType: dict,
    inspect.ListType: list,
    inspect.StrType: str,
    inspect.LiteralType: str,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: int,
}
"""Numbers were read as the length of their digits: what they say is of no interest, and how long they are no danger."""


def _python(known: inspect.Type) -> type:
    return _PYTHON[type(known)]


def _type_of(value: object) -> str:
    if isinstance(value, list):
        inner = sorted({_type_of(element) for element in value[:ELEMENTS] if not isinstance(element, list)})
        return f"array of {' or '.join(inner)}" if inner else "array"
    names: dict[type, str] = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object"}
    return names.get(type(value), "null")


def _named(name: str) -> str:
    """A field's name where it looks like one: anything else may be data."""
    return name if _NAME.fullmatch(name) else "(odd name)"
