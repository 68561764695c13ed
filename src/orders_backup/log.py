"""Structured logs: one line per event. A line holds what `FIELDS` allows and nothing else, whoever wrote it.

Texts of exceptions and of libraries are never shown: SQLAlchemy, psycopg and httpx put values into them. What is told
of a failure is its kind and the lines of code it came through. docs/operating.md lists all events.
"""

import errno
import logging
import re
import secrets
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import PurePath
from types import FrameType, TracebackType
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo

FRAMES = 12
"""How many of the innermost frames of a failure are shown."""

Shape = Callable[[object], bool]

_log = structlog.get_logger()


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def _text(pattern: str) -> Shape:
    matches = re.compile(pattern, re.ASCII).fullmatch
    return lambda value: isinstance(value, str) and matches(value) is not None


def _either(one: Shape, other: Shape) -> Shape:
    return lambda value: one(value) or other(value)


def _all(of: Shape) -> Shape:
    return lambda value: isinstance(value, list) and all(of(one) for one in value)


_id = _text(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_backup = _text(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
_word = _text(r"[a-z][a-z0-9_]{0,39}")
_kind_of_failure = _text(r"[A-Za-z_][A-Za-z0-9_]{0,47}(:[A-Z0-9]{1,20})?")
_place = _text(r"[\w./<>-]{1,200}:\d+ [\w<>.?]{1,80}")

FIELDS: dict[str, Shape] = {
    # whose work, and which
    "account_id": _id,
    "export_id": _id,
    "run_id": _id,
    "webhook_id": _id,
    "backup_id": _either(_id, _backup),
    "drill_id": _backup,
    "order_id": _id,
    "superseded_by": _id,
    "trace_id": _text(r"[0-9a-f]{16,32}"),
    "allegro_trace_id": _text(r"[0-9A-Za-z-]{1,40}"),
    "key_id": _text(r"[0-9A-Za-z_-]{1,32}"),
    "task": _word,
    "seq": _number,
    "generation": _number,
    "before": _number,
    # a request or a call
    "method": _text(r"[A-Z]{3,7}"),
    "route": _text(r"/[\w./{}:-]{0,120}"),
    "http_status": _number,
    "duration_ms": _number,
    "request_bytes": _number,
    "bytes": _number,
    # what became of it
    "status": _either(_number, _word),
    "code": _word,
    "kind": _word,
    "reason": _text(r"[a-z][a-z_ ]{0,39}"),
    "step": _word,
    "format": _word,
    "scope": _word,
    "rule": _word,
    "channel": _text(r"\d{1,3}-[a-z0-9+.-]{1,32}"),
    "route_class": _word,
    "path": _text(r"[\w.\[\]*$-]{1,300}"),
    "error": _kind_of_failure,
    "causes": _all(_kind_of_failure),
    "where": _all(_place),
    "logger": _text(r"[\w.]{1,48}"),
    "template": lambda value: isinstance(value, str) and len(value) < 1000,  # proven to be a constant, see `_constant`
    "host": _text(r"[\w.:-]{1,255}"),
    "port": _number,
    "concurrency": _number,
    # counts
    **dict.fromkeys(
        (
            *(
                "accounts",
                "added",
                "alerts",
                "attempts",
                "calls",
                "events",
                "failures",
                "files",
                "findings",
                "gone",
                "here",
            ),
            *("inserted", "listed", "newer", "orders", "owed", "page_size", "seconds", "set_aside", "there"),
            *("unchanged", "undone", "unproven", "updated", "versions"),
        ),
        _number,
    ),
}
"""Every field that a line may have, and how its value has to look. None is always allowed."""

ALWAYS = ("timestamp", "level", "event")


def configure(*, log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sets up structlog on `stream` (standard output), and makes the libraries' loggers speak in the same lines."""
    render: structlog.typing.Processor = _json if log_format == "json" else structlog.dev.ConsoleRenderer()
    lines = _Lines(stream or sys.stdout)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            allowed,
            render,
        ],
        logger_factory=lambda *_: lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
    )
    root = logging.getLogger()
    root.handlers[:] = [_Libraries()]
    root.setLevel(max(logging.getLevelName(level), logging.WARNING))


def catch_all() -> None:
    """Makes whatever else a process would print (warnings, failures that nobody caught) a line of the log."""
    warnings.showwarning = _warned  # type: ignore[assignment]
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda one: _log.error("failure_dropped", **told(one.exc_value))
    threading.excepthook = _uncaught_in_thread


def allowed(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Leaves of an event what `FIELDS` allows. A failure becomes its kind and its places in the code. `refused` names
    the fields that were left out."""
    failure = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if failure:
        event.update(told(_exception(failure)))
    shown: EventDict = {name: event.get(name) for name in ALWAYS}
    refused = []
    for name, value in event.items():
        if name in ALWAYS or value is None:
            continue
        if (shape := FIELDS.get(name)) is not None and shape(value):
            shown[name] = value
        else:
            refused.append(name)
    if refused:
        shown["refused"] = sorted(name for name in refused if re.fullmatch("[a-z_]{1,40}", name))
    if not isinstance(shown["event"], str) or not re.fullmatch("[a-z]+(_[a-z]+)+", shown["event"]):
        shown["event"] = "event_refused"
    return shown


def new_trace_id() -> str:
    """Names a request or a task, as W3C Trace Context writes it."""
    return secrets.token_hex(16)


def told(error: BaseException | None) -> dict[str, Any]:
    """What a line may say of a failure: its kind, the kinds that led to it, and where it came through."""
    if error is None:
        return {}
    chain = list(_chain(error))
    frames = traceback.extract_tb(chain[-1].__traceback__ or error.__traceback__)[-FRAMES:]
    found: dict[str, Any] = {
        "error": _kind(error),
        "where": [_at(frame.filename, frame.lineno or 0, frame.name) for frame in frames],
    }
    return found | ({"causes": [_kind(one) for one in chain[1:]]} if len(chain) > 1 else {})


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The failure and what led to it."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(seen) < FRAMES:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _kind(error: BaseException) -> str:
    """The name of its class, with PostgreSQL's or the operating system's code where there is one."""
    code = getattr(error, "sqlstate", None)
    if isinstance(error, OSError) and error.errno is not None:
        code = errno.errorcode.get(error.errno, "")
    return f"{type(error).__name__}:{code}" if code else type(error).__name__


def _at(file: str, line: int, function: str) -> str:
    """The end of the path is enough to find it, and names nobody's home."""
    return f"{'/'.join(PurePath(file).parts[-3:])}:{line} {function}"


def _exception(info: object) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    return info[1] if isinstance(info, tuple) else sys.exc_info()[1]


def _json(_logger: object, _method: str, event: EventDict) -> str:
    return msgspec.json.encode(event).decode()


class _Lines:
    """Writes lines whole. A disk that is full, or a reader that is gone, must not fail the work that is told of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

    log = debug = info = warning = error = critical = exception = msg


class _Libraries(logging.Handler):
    """What libraries log: who, where in its code, and the text before any value was put into it."""

    def emit(self, record: logging.LogRecord) -> None:
        info: ExcInfo | None = record.exc_info if record.exc_info and record.exc_info[1] else None
        failure = told(info[1]) if info else {}
        where = failure.pop("where", []) or [_at(record.pathname, record.lineno, record.funcName or "?")]
        template = _constant(record, sys._getframe())  # noqa: SLF001 - the way to the code that speaks
        named = {"logger": record.name, "where": where, "template": template}
        level = max(record.levelno // 10 * 10, logging.DEBUG)
        _log.log(min(level, logging.CRITICAL), "library_complained", **named, **failure)


def _constant(record: logging.LogRecord, frame: FrameType | None) -> str | None:
    """The text of a library where it stands so in its code, and so holds no value; None for any other."""
    while frame is not None and (frame.f_code.co_filename, frame.f_lineno) != (record.pathname, record.lineno):
        frame = frame.f_back
    if frame is None or not isinstance(record.msg, str):
        return None
    named = (value for name, value in frame.f_globals.items() if name.isupper())
    is_constant = record.msg in frame.f_code.co_consts or any(record.msg is value for value in named)
    return record.msg.strip() if is_constant else None


def _warned(_message: object, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    _log.warning("warning_raised", error=category.__name__, where=[_at(filename, lineno, "?")])


def _uncaught_in_thread(ended: threading.ExceptHookArgs) -> None:
    if not isinstance(ended.exc_value, SystemExit):
        _log.error("thread_crashed", **told(ended.exc_value))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _log.critical("process_crashed", **told(error.with_traceback(trace)))
