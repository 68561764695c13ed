"""What is wrong, account by account and in the installation, and what to do about it. Looks; changes nothing but the
traces of its looking. To add a finding: a line in KNOWN, a check that yields it, a line in docs/operating.md.
"""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import health, safety
from orders_backup.accounts import facts, standing
from orders_backup.allegro import answers
from orders_backup.errors import AllegroError, SealedValueError
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

ERROR, WARNING, NOTE = "error", "warning", "note"

LEAST_DISK = 1 << 30
AT_ONCE = 500
"""Accounts whose facts are asked for together."""

KNOWN = {
    "settings_refused": (ERROR, "Mend the setting; docs/settings.md lists them all."),
    "client_missing": (ERROR, "Set ALLEGRO_CLIENT_ID and ALLEGRO_CLIENT_SECRET of your application."),
    "database_failing": (ERROR, "Is PostgreSQL running, DATABASE_URL right, and its disk not full?"),
    "migrations_failing": (ERROR, "Run `orders-backup migrate`."),
    "broker_failing": (ERROR, "Is the broker running, BROKER_URL right, and its memory not full? Work waits for it."),
    "storage_failing": (ERROR, "Does the bucket exist, and may the key list, get, put and delete below S3_PREFIX?"),
    "storage_not_set": (WARNING, "Set S3_BUCKET: else a lost disk takes every login with it."),
    "backup_missing": (ERROR, "`orders-backup backup list` says why; mend that, then `orders-backup backup create`."),
    "drill_missing": (WARNING, "`orders-backup backup list` says why; then `orders-backup backup drill`."),
    "drill_failed": (ERROR, "`orders-backup backup verify` and `backup list` tell more; make a new backup."),
    "archive_behind": (ERROR, "Does the bucket take files, and are there workers? Look for `archive_postponed`."),
    "allegro_unreachable": (ERROR, "Can this machine reach ALLEGRO_API_URL? Is Allegro up?"),
    "disk_short": (ERROR, "Make room: new logins are written to this disk first."),
    "no_worker": (ERROR, "Start `orders-backup worker`, or `up`: nothing is synced meanwhile."),
    "work_waits": (ERROR, "Is a scheduler running (`orders-backup scheduler`)? Are there enough workers?"),
    "client_silent": (NOTE, "Allegro answered 429; it goes on by itself. Often? Lower RATE_LIMIT_CLIENT."),
    "webhook_disabled": (WARNING, "Mend the endpoint; its first success brings everything."),
    "schema_drift": (NOTE, "See `orders-backup drift`; every order is kept as it came."),
    "reauthorization_required": (ERROR, "Connect the seller again: `orders-backup accounts connect`, or the API."),
    "sealed_value": (ERROR, "Put the key that sealed this login back into ENCRYPTION_KEYS, or connect again."),
    "sync_failing": (ERROR, "It is tried again by itself; the sentence says what Allegro answers."),
    "journal_stale": (ERROR, "Are workers running? Is the budget used up (metrics, `budget_*`)?"),
    "journal_gap_near": (ERROR, "Let this account's journal be read before Allegro drops events."),
    "cliff_near": (ERROR, "Let the listing go on; `orders-backup sync ACCOUNT --kind reconcile` asks for it now."),
    "certificate_old": (WARNING, "`orders-backup sync ACCOUNT --kind reconcile`, then `certificate ACCOUNT`."),
    "not_proven": (WARNING, "It is tried again by itself; `orders-backup certificate ACCOUNT` shows the windows."),
    "orders_owed": (WARNING, "They are read as the budget allows; look for `pages_postponed` and `order_set_aside`."),
    "set_aside": (WARNING, "`orders-backup set-aside list ACCOUNT`, then `retry` or `acknowledge`."),
    "paused": (NOTE, "Resume it when its journal is wanted again; Allegro keeps events for 60 days."),
}
"""Every finding: how bad it is, and the remedy."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `about`: the account or webhook, None for the whole installation."""

    severity: str
    code: str
    sentence: str
    remedy: str
    about: uuid.UUID | None = None

    @property
    def line(self) -> str:
        of = f" {self.about}" if self.about else ""
        return f"{self.severity:<8}{self.code}{of}: {self.sentence}\n        -> {self.remedy}"


BACKUP_LATE = timedelta(hours=2)
DRILL_LATE = timedelta(days=1)
ARCHIVE_LATE = 900.0
"""After the time planned; seconds after something was stored."""


def finding(code: str, sentence: str, about: uuid.UUID | None = None) -> Finding:
    severity, remedy = KNOWN[code]
    return Finding(severity, code, sentence, remedy, about)


def examine(runtime: Runtime) -> Iterator[Finding]:
    """Everything, the installation first; accounts only where the database can be asked."""
    yield from _settings(runtime)
    yield from _disk(runtime)
    found = _health(runtime)
    for part, state in found.failing.items():
        if state == health.UNKNOWN:
            continue
        yield finding(f"{part}_failing", f"The {part} {_said(state)}")
    if found.parts["storage"] == health.NOT_SET:
        yield finding("storage_not_set", "Logins lie in the database and on this disk alone.")
    yield from _allegro(runtime)
    if {"database", "migrations"} & found.failing.keys():
        return
    with database.snapshot(runtime.db) as tx:
        if found.workers != health.OK:
            yield finding("no_worker", f"Workers: {found.workers}.")
        yield from _installation(runtime, tx)
        if (safe := safety.look(tx, runtime.settings)) is not None:
            yield from _safety(runtime.settings, safe)
        yield from _accounts(runtime, tx)


def _health(runtime: Runtime) -> health.Health:
    probe = health.Probe(runtime)
    try:
        return probe.look()
    finally:
        probe.close()


def summary(found: Sequence[Finding]) -> str:
    """One sentence."""
    counts = {level: sum(one.severity == level for one in found) for level in (ERROR, WARNING, NOTE)}
    told = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return f"{', '.join(told)}." if told else "Nothing is wrong."


def _said(state: str) -> str:
    is_verb = state.startswith(("does", "cannot", "loses"))
    return f"{state}." if is_verb else f"is not as it must be: {state}."


def _settings(runtime: Runtime) -> Iterator[Finding]:
    settings = runtime.settings
    if not (settings.allegro_client_id and settings.allegro_client_secret.get_secret_value()):
        yield finding("client_missing", "Without an application at Allegro nobody can connect and nothing is renewed.")


def _disk(runtime: Runtime) -> Iterator[Finding]:
    folder = runtime.settings.data_dir
    if folder.exists() and (free := shutil.disk_usage(folder).free) < LEAST_DISK:
        yield finding("disk_short", f"{free >> 20} MiB are free where DATA_DIR is.")


def _allegro(runtime: Runtime) -> Iterator[Finding]:
    """A call without a token, which no limit counts; any answer that is not a failure of Allegro's will do."""
    try:
        status = answers.send(runtime.allegro.http, "GET", "/me").status_code
    except (httpx.HTTPError, httpx.InvalidURL, AllegroError) as error:
        yield finding("allegro_unreachable", f"There is no answer ({type(error).__name__}).")
    else:
        if status >= 500:
            yield finding("allegro_unreachable", f"Allegro answers {status}.")


def _installation(runtime: Runtime, tx: Connection) -> Iterator[Finding]:
    for work, seconds in standing.waiting(tx):
        yield finding("work_waits", f"Work of the kind {work} has been due for {int(seconds)} s, and nobody does it.")
    client = f"client:{runtime.settings.allegro_client_id}"
    silent = "SELECT silent_until FROM request_budget WHERE key = :client AND silent_until > clock_timestamp()"
    for (until,) in _rows(tx, silent, client=client):
        yield finding("client_silent", f"Nobody calls Allegro until {until:%Y-%m-%d %H:%M:%S} UTC.")
    for webhook_id, reason in _rows(tx, "SELECT webhook_id, reason FROM webhooks WHERE status = 'disabled'"):
        yield finding("webhook_disabled", f"The endpoint was given up ({reason}).", webhook_id)
    new = "SELECT count(*) FROM schema_drift WHERE first_seen > clock_timestamp() - interval '7 days'"
    if count := _rows(tx, new)[0][0]:
        yield finding("schema_drift", f"{count} new differences in Allegro's documents in a week.")


def _safety(settings: Settings, found: safety.Safety) -> Iterator[Finding]:
    late = (settings.backup_interval + BACKUP_LATE).total_seconds()
    if found.backup_age is not None and (found.backup_age > late or found.backup_error):
        why = f": {found.backup_error}" if found.backup_error else "."
        yield finding("backup_missing", f"The newest verified backup is {_hours(found.backup_age)} old{why}")
    late = (max(settings.drill_interval, settings.drill_whole_interval) + DRILL_LATE).total_seconds()
    for name, one in found.drills.items():
        if one.age is not None and one.age > late:
            yield finding("drill_missing", f"The last drill of the kind {name} was {_hours(one.age)} ago.")
        if one.failed:
            yield finding("drill_failed", f"The newest drill of the kind {name}: {one.error}")
    if found.archive_age > ARCHIVE_LATE:
        yield finding("archive_behind", f"Something waits {int(found.archive_age)} s for its archive.")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h"


def _accounts(runtime: Runtime, tx: Connection) -> Iterator[Finding]:
    rows = standing.of_all(tx, interval=runtime.settings.events_interval)
    for at in range(0, len(rows), AT_ONCE):
        some = rows[at : at + AT_ONCE]
        warned = facts.warnings_of(tx, [row.id for row in some])
        for row in some:
            for warning in warned.get(row.id, []):
                yield finding(warning.code, warning.sentence, row.id)
            yield from _account(runtime, row)


def _account(runtime: Runtime, row: Any) -> Iterator[Finding]:
    if row.paused:
        yield finding("paused", "The account is paused.", row.id)
        return
    if row.status == "active":
        if not _opens(runtime, row):
            yield finding("sealed_value", "Its login cannot be opened with our keys.", row.id)
        for kind, error in zip(row.kinds or [], row.errors or [], strict=True):
            yield finding("sync_failing", f"Its {kind} failed three times in a row or more: {error}", row.id)
        if row.is_stale:
            last = f"last read to its end on {row.followed_at:%Y-%m-%d %H:%M} UTC" if row.followed_at else "never read"
            yield finding("journal_stale", f"Its journal was {last}.", row.id)
    if row.proven == "failed":
        yield finding("not_proven", "The newest run over everything could not prove all.", row.id)
    if row.owed:
        yield finding("orders_owed", f"{row.owed} orders have had to be read for more than an hour.", row.id)


def _opens(runtime: Runtime, row: Any) -> bool:
    if row.refresh_sealed is None:
        return False
    try:
        runtime.vault.open(row.refresh_sealed, row.id, row.generation, "refresh")
    except SealedValueError:
        return False
    return True


def _rows(tx: Connection, query: str, **values: object) -> list[Any]:
    return list(tx.execute(sa.text(query), values).all())
