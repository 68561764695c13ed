"""Logs: what a line may hold, whoever wrote it."""

import errno
import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Engine

from orders_backup import db as database
from orders_backup import log
from orders_backup.allegro import answers
from orders_backup.errors import AllegroAnswerError, AllegroUnreadableError
from orders_backup.sync import job
from orders_backup.tables import accounts

CANARY = "jan.k4n4r3k@example.com"


class Lines(io.StringIO):
    """What was logged."""

    def all(self) -> list[dict[str, Any]]:
        assert "k4n4r3k" not in self.getvalue().lower()
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def only(self) -> dict[str, Any]:
        (line,) = self.all()
        return line


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Logs as a process writes them, in memory; everything is as before afterwards."""
    known, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    structlog.contextvars.clear_contextvars()
    found = Lines()
    log.configure(log_format="json", level="INFO", stream=found)
    log.catch_all()
    yield found
    structlog.contextvars.clear_contextvars()
    structlog.configure(**known)
    root.handlers[:] = handlers
    root.setLevel(level)


def logger() -> Any:
    return structlog.get_logger()


def test_a_field_that_is_not_allowed_is_left_out_and_named(lines: Lines) -> None:
    logger().info("order_stored", buyer_login=CANARY, orders=3, account_id=uuid4().hex, **{CANARY: 1})
    line = lines.only()
    assert set(line) == {"timestamp", "level", "event", "orders", "refused"}
    assert line["refused"] == ["account_id", "buyer_login"]


@pytest.mark.parametrize("field", [name for name in log.FIELDS if name != "template"])
@pytest.mark.parametrize(
    "value",
    [CANARY, "Jan K4n4r3k", "ul. K4n4r3k 7/2", {"login": CANARY}, [CANARY], CANARY.encode(), f"x\n{CANARY}"],
    ids=["mail", "name", "street", "mapping", "list", "bytes", "lines"],
)
def test_no_field_takes_what_people_are_called(lines: Lines, field: str, value: object) -> None:
    logger().info("order_stored", **{field: value})
    assert lines.only()["refused"] == [field]


@pytest.mark.parametrize(
    "token", ["eyJhbGciOiJSUzI1NiJ9.eyJrNG40cjNrIjoxfQ.c2lnbmF0dXJl" * 4, "aob_live_abc_" + "x" * 43]
)
def test_no_field_takes_a_token_or_an_api_key(lines: Lines, token: str) -> None:
    for field in log.FIELDS.keys() - {"template", "path", "host"}:  # a place in a document, and one of our settings
        logger().info("order_stored", **{field: token})
    assert token not in lines.getvalue()


def test_an_event_is_a_constant_name_and_no_sentence(lines: Lines) -> None:
    logger().info(f"stored the order of {CANARY}")
    assert lines.only()["event"] == "event_refused"


def raises_with_values() -> None:
    known: dict[str, str] = {}
    try:
        known[CANARY]
    except KeyError as error:
        raise RuntimeError(f"cannot greet {CANARY}") from error


def test_of_a_failure_only_its_kinds_and_places_in_the_code_are_told(lines: Lines) -> None:
    try:
        raises_with_values()
    except RuntimeError:
        logger().exception("task_crashed")
    line = lines.only()
    assert (line["error"], line["causes"]) == ("RuntimeError", ["KeyError"])
    assert re.fullmatch(r".*tests/watch/test_log\.py:\d+ raises_with_values", line["where"][-1])


def test_a_failure_of_the_database_names_its_code_and_never_a_value(lines: Lines, db: Engine) -> None:
    row = {"id": uuid4(), "user_id": uuid4(), "name": CANARY, "status": "none that there is"}
    with pytest.raises(sa.exc.IntegrityError, match=CANARY) as failed, database.transaction(db) as tx:
        tx.execute(sa.insert(accounts).values(row))
    logger().error("task_crashed", exc_info=failed.value)
    line = lines.only()
    assert (line["error"], line["causes"]) == ("IntegrityError", ["CheckViolation:23514"])


def test_a_failure_of_the_disk_names_its_code(lines: Lines) -> None:
    logger().error("task_crashed", exc_info=OSError(errno.ENOSPC, CANARY, CANARY))
    assert lines.only()["error"] == "OSError:ENOSPC"


def test_failures_that_lead_to_each_other_end_somewhere(lines: Lines) -> None:
    one, other = ValueError(CANARY), TypeError(CANARY)
    one.__cause__, other.__cause__ = other, one
    logger().error("task_crashed", exc_info=one)
    assert lines.only()["causes"] == ["TypeError"]


# What others say


def speak(say: Callable[[logging.Logger], None]) -> None:
    say(logging.getLogger("a.foreign"))


SAID: list[tuple[Callable[[logging.Logger], None], str | None]] = [
    (lambda to: to.error("cannot reach %s", CANARY), "cannot reach %s"),
    (lambda to: to.error("gone"), "gone"),
    (lambda to: to.error(f"cannot reach {CANARY}"), None),
    (lambda to: to.error(f"cannot reach {CANARY} %s", 1), None),
    (lambda to: to.error("cannot reach {}".format(CANARY), extra={"user": CANARY}), None),  # noqa: UP032
    (lambda to: to.error(ValueError(CANARY)), None),
    (lambda to: to.error({"user": CANARY}), None),
]


@pytest.mark.parametrize(("say", "template"), SAID)
def test_a_library_is_quoted_only_where_its_words_stand_in_its_code(
    lines: Lines, say: Callable[[logging.Logger], None], template: str | None
) -> None:
    speak(say)
    line = lines.only()
    assert line["event"] == "library_complained"
    assert (line["logger"], line["level"], line.get("template")) == ("a.foreign", "error", template)
    assert "test_log.py:" in line["where"][0]


def test_a_failure_that_a_library_logs_is_told_without_its_text(lines: Lines) -> None:
    try:
        raises_with_values()
    except RuntimeError:
        logging.getLogger("a.foreign").exception("cannot greet %s", CANARY, stack_info=True)
    line = lines.only()
    assert (line["error"], line["causes"]) == ("RuntimeError", ["KeyError"])


def test_libraries_are_heard_from_warnings_on_only(lines: Lines) -> None:
    logging.getLogger("httpx").info("HTTP Request: GET https://example.com/?login=%s", CANARY)
    logging.getLogger("sqlalchemy.engine").info(CANARY)
    assert lines.all() == []


def test_warnings_and_failures_that_nobody_caught_are_lines_without_values(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = log._warned  # type: ignore[assignment]
        warnings.warn(f"odd: {CANARY}", RuntimeWarning, stacklevel=1)
    thread = threading.Thread(target=raises_with_values)
    thread.start()
    thread.join()
    try:
        raises_with_values()
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert [line["event"] for line in lines.all()] == ["warning_raised", "thread_crashed", "process_crashed"]


def test_a_thread_that_ends_itself_is_no_failure(lines: Lines) -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert lines.all() == []


def test_a_full_disk_does_not_fail_the_work_that_is_told_of(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines, "write", full)
    logger().info("order_stored", orders=1)
    logging.getLogger("a.foreign").error("gone")


def test_lines_for_people_hold_no_more_than_those_for_programs(lines: Lines) -> None:
    log.configure(log_format="console", level="INFO", stream=lines)
    try:
        raises_with_values()
    except RuntimeError:
        logger().exception("task_crashed", buyer_login=CANARY, orders=3)
    said = lines.getvalue()
    assert "k4n4r3k" not in said.lower()
    assert "task_crashed" in said
    assert "RuntimeError" in said


# Calls to Allegro


def call(answer: Callable[[httpx.Request], httpx.Response], path: str = "/me", **options: Any) -> None:
    with httpx.Client(base_url="https://allegro.example", transport=httpx.MockTransport(answer)) as http:
        answers.send(http, "GET", path, **options)


def test_one_line_is_logged_per_call_without_queries_ids_bodies_or_tokens(lines: Lines) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=CANARY.encode(), headers={"trace-id": "e225ed72221dc6c"})

    secrets = {"params": {"login": CANARY}, "headers": {"Authorization": f"Bearer {CANARY}"}}
    structlog.contextvars.bind_contextvars(trace_id="ab" * 16, account_id=str(uuid4()), task="sync_journal")
    call(answer, f"/order/checkout-forms/{CANARY}", route="/order/checkout-forms/{id}", **secrets)
    line = lines.only()
    assert line.pop("duration_ms") >= 0
    known = {"timestamp", "level", "trace_id", "account_id", "task"}
    assert {name: value for name, value in line.items() if name not in known} == {
        "event": "call_finished",
        "method": "GET",
        "route": "/order/checkout-forms/{id}",
        "status": 200,
        "bytes": len(CANARY),
        "allegro_trace_id": "e225ed72221dc6c",
    }
    assert known <= set(line)


def broken(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout(f"no answer for {CANARY}")


def huge(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=CANARY.encode() * (answers.LARGEST // 20))


def torn(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=httpx.ByteStream(CANARY.encode()), headers={"content-encoding": "gzip"})


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (broken, None, httpx.ReadTimeout),
        (huge, 200, AllegroUnreadableError),
        (torn, 200, AllegroAnswerError),
    ],
)
def test_a_call_that_fails_is_logged_with_its_kind(
    lines: Lines, answer: Callable[[httpx.Request], httpx.Response], status: int | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(answer)
    line = lines.only()
    assert (line.get("status"), line["error"]) == (status, error.__name__)


def test_a_call_that_is_made_again_after_a_failure_is_not_taken_for_one(lines: Lines) -> None:
    try:
        call(broken)
    except httpx.ReadTimeout:
        call(lambda _: httpx.Response(200, content=b"{}"))
    assert [line.get("error") for line in lines.all()] == ["ReadTimeout", None]


def test_calls_that_are_made_side_by_side_are_logged_as_their_jobs(lines: Lines) -> None:
    structlog.contextvars.bind_contextvars(trace_id="cd" * 16, task="sync_listing")
    job.side_by_side([1, 2, 3], lambda number: logger().info("order_stored", orders=number))
    found = lines.all()
    assert {line["orders"] for line in found} == {1, 2, 3}
    assert {line["trace_id"] for line in found} == {"cd" * 16}
