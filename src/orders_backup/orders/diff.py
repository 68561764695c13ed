"""What differs between two versions of an order: a JSON Patch (RFC 6902), and each step in a sentence. PURE."""

from typing import Any, NotRequired

import jsonpatch
import jsonpointer
import msgspec
from typing_extensions import TypedDict

from orders_backup.orders.changes import VOLATILE

Operation = TypedDict(
    "Operation",
    {
        "op": str,
        "path": str,
        "from": NotRequired[str],
        "value": NotRequired[Any],
        "volatile": bool,
        "sentence": str,
    },
)
"""One operation of a JSON Patch (RFC 6902). `volatile`: a field whose change alone tells nothing (`updatedAt`,
`revision`); `sentence`: the operation for a person."""

LONGEST = 80
"""Characters of a value that a sentence shows; the whole value is beside it."""


def operations(before: bytes, after: bytes) -> list[Operation] | None:
    """The patch that turns one document into the other; None where one of them is no JSON that can be compared."""
    try:
        document, target = msgspec.json.decode(before), msgspec.json.decode(after)
        found = []
        for step in jsonpatch.make_patch(document, target):
            found.append(_told(document, step))
            document = jsonpatch.apply_patch(document, [step])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return found


def _told(document: Any, step: dict[str, Any]) -> Operation:
    """The step with its sentence; `document` is as the steps before it left it."""
    first = jsonpointer.JsonPointer(step["path"]).parts[:1]
    told: Operation = {**step, "volatile": bool(VOLATILE.intersection(first)), "sentence": _sentence(document, step)}  # type: ignore[typeddict-item]
    return told


def _sentence(document: Any, step: dict[str, Any]) -> str:
    where = _place(step["path"])
    if step["op"] == "add":
        return f"{where} was added: {_shown(step['value'])}."
    if step["op"] == "move":
        return f"{_place(step['from'])} moved to {where}."
    old = _shown(jsonpointer.resolve_pointer(document, step["path"]))
    if step["op"] == "remove":
        return f"{where} was removed; it was {old}."
    return f"{where} changed from {old} to {_shown(step['value'])}."


def _place(path: str) -> str:
    """`/lineItems/0/id` as a person writes it: `lineItems[0].id`."""
    parts = jsonpointer.JsonPointer(path).parts
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts).lstrip(".") or "the document"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
