"""The least that a backfill can cost: the same pages downloaded one after another and copied into one JSONB column.

A child process of the backfill bench: it reads its task from standard input, says `ready`, and works when told to.
"""

import json
import sys
from typing import Any

import httpx
import msgspec
import psycopg

ACCEPT = "application/vnd.allegro.public.v1+json"


class _Page(msgspec.Struct):
    checkoutForms: list[msgspec.Raw]  # noqa: N815


def main() -> None:
    """One JSON object a line: the task in, the number of rows out."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    headers = {"Accept": ACCEPT, "Accept-Language": "en-US", "User-Agent": task["user_agent"]}
    headers |= {"Authorization": f"Bearer {task['token']}"}
    with (
        httpx.Client(base_url=task["api_url"], headers=headers, trust_env=False) as http,
        psycopg.connect(task["database_url"]) as connection,
    ):
        connection.execute("CREATE TABLE reference_orders (body jsonb)")
        connection.commit()
        _say("ready")
        sys.stdin.readline()
        _say(sum(_copied(http, connection, page) for page in task["pages"]))
        sys.stdin.readline()


def _copied(http: httpx.Client, connection: "psycopg.Connection[Any]", page: dict[str, str]) -> int:
    """One page in one transaction."""
    answer = http.get("/order/checkout-forms", params=page).raise_for_status()
    forms = msgspec.json.decode(answer.content, type=_Page).checkoutForms
    with connection.cursor().copy("COPY reference_orders (body) FROM STDIN") as copy:
        for form in forms:
            copy.write_row((bytes(form).decode(),))
    connection.commit()
    return len(forms)


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
