"""What no schema can say, told to Schemathesis: `SCHEMATHESIS_HOOKS=tests.rest.schemathesis_hooks`.

A cursor is one of ours and of the same question; an Idempotency-Key is new for every other request; and whoever revokes
or rotates the key that asks (`OWN_KEY_ID`) learns nothing more. Where a request is meant to be wrong it stays so.
"""

import os
import uuid
from typing import Any

import schemathesis
from schemathesis import GenerationMode

NOBODY = "0" * 12


@schemathesis.hook
def map_case(_context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> "schemathesis.Case[Any]":
    query: dict[str, Any] = case.query or {}
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        case.query = {name: value for name, value in query.items() if name != "cursor"}
        if case.headers and "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if case.path_parameters and case.path_parameters.get("key_id") == os.environ["OWN_KEY_ID"]:
        case.path_parameters["key_id"] = NOBODY
    return case
