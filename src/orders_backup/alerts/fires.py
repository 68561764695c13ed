"""When each rule fires. PURE: facts in, what fires out; None: nothing can be said."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from orders_backup.alerts.picture import Account, Doubt, Picture, Quiet

INSTALLATION = "installation"
"""The subject of what concerns everything."""

WORKERS_SILENT = timedelta(minutes=1)
SCHEDULER_SILENT = timedelta(minutes=3)
NO_SYNC = timedelta(minutes=30)
LOGIN_LATE = timedelta(hours=1)
LIMIT_SHOWS = timedelta(minutes=10)
BACKUP_LATE = timedelta(hours=26)
DRILL_LATE = timedelta(days=8)
IN_A_ROW = 3
QUIET = timedelta(hours=3)
SURPRISING = 9.21
"""Orders that a span has on average so that none at all has a probability of e**-9.21 = 0.0001 (Poisson)."""


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule that fires. `subject`: an account, a webhook, a channel, a kind of work, or the installation; `detail`:
    numbers and words of ours, never a value from outside. Not `is_known`: whether it does cannot be said."""

    rule: str
    subject: str
    account_id: UUID | None = None
    detail: str = ""
    is_known: bool = True


Fires = Callable[[Picture], Iterable[Firing] | None]


def about_parts(part: str) -> Fires:
    def fires(picture: Picture) -> Iterator[Firing] | None:
        if picture.failing_parts is None:
            return None
        return (Firing(f"{part}_failing", INSTALLATION) for name in picture.failing_parts if name == part)

    return fires


def _late(rule: str, at: datetime | None, picture: Picture, *, after: timedelta, what: str) -> list[Firing]:
    """Fires where something has not happened for too long, or never since anybody looks."""
    ago = picture.now - (at or picture.began_at)
    if ago <= after:
        return []
    return [Firing(rule, INSTALLATION, detail=f"{what} {_span(ago)} ago." if at else f"Never in {_span(ago)}.")]


def workers_silent(picture: Picture) -> list[Firing]:
    silent = picture.workers_answered
    if silent is None:  # who stopped properly is forgotten at once
        is_late = picture.now - picture.began_at > WORKERS_SILENT
        return [Firing("workers_silent", INSTALLATION, detail="None reports.")] if is_late else []
    at = picture.now - silent
    return _late("workers_silent", at, picture, after=WORKERS_SILENT, what="The last one answered")


def scheduler_silent(picture: Picture) -> list[Firing]:
    return _late("scheduler_silent", picture.ticked_at, picture, after=SCHEDULER_SILENT, what="It ticked")


def work_waits(picture: Picture) -> list[Firing]:
    return [
        Firing("work_waits", work, detail=f"The oldest has been due for {_span(timedelta(seconds=seconds))}.")
        for work, seconds in picture.waiting.items()
    ]


def _followed(picture: Picture) -> list[Account]:
    """The accounts whose journals have to be read."""
    return [one for one in picture.accounts or () if one.is_active and not one.is_paused]


def allegro_down(picture: Picture) -> list[Firing] | None:
    if picture.accounts is None:
        return None
    followed = _followed(picture)
    away = sum(one.is_allegro_away for one in followed)
    if not away or away * 2 < len(followed):
        return []
    detail = f"Of {len(followed)} accounts {away} have had no answer three times in a row."
    return [Firing("allegro_down", INSTALLATION, detail=detail)]


def limit_exceeded(picture: Picture) -> list[Firing]:
    is_lately = picture.silent_until is not None and picture.silent_until > picture.now - LIMIT_SHOWS
    return [Firing("limit_exceeded", INSTALLATION)] if is_lately else []


def no_sync(picture: Picture) -> list[Firing] | None:
    if picture.accounts is None:
        return None
    followed = _followed(picture)
    if not followed:
        return []
    newest = max((one.followed_at for one in followed if one.followed_at), default=None)
    after = max(NO_SYNC, 6 * picture.events_interval, 3 * min(one.polled_every for one in followed))
    return _late("no_sync", newest, picture, after=after, what="The newest one ended")


def sync_failing(picture: Picture) -> Iterator[Firing] | None:
    if picture.accounts is None:
        return None
    return (_of(one, "sync_failing", ", ".join(one.failing)) for one in _followed(picture) if one.failing)


def sync_stale(picture: Picture) -> Iterator[Firing] | None:
    if picture.accounts is None:
        return None
    return (
        _of(one, "sync_stale", f"Last {_span(picture.now - one.followed_at)} ago." if one.followed_at else "Never yet.")
        for one in _followed(picture)
        if one.is_stale
    )


def operation_failing(picture: Picture) -> Iterator[Firing] | None:
    if picture.accounts is None:
        return None
    known = {str(one.account_id): one.account_id for one in picture.accounts}
    works: dict[str, set[str]] = {}
    for work, subject in picture.failing_work:
        works.setdefault(subject, set()).add(work)
    return (
        Firing("operation_failing", subject, known.get(subject), ", ".join(sorted(some)))
        for subject, some in works.items()
    )


def token_lost(picture: Picture) -> Iterator[Firing] | None:
    if picture.accounts is None:
        return None
    return (_of(one, "token_lost") for one in picture.accounts if one.is_lost)


def login_late(picture: Picture) -> Iterator[Firing] | None:
    if picture.accounts is None:
        return None
    late = ((one, one.login_expired_at) for one in picture.accounts if one.is_active)
    return (
        _of(one, "login_late", f"Expired {_span(picture.now - at)} ago.")
        for one, at in late
        if at is not None and picture.now - at > LOGIN_LATE
    )


def webhook_disabled(picture: Picture) -> Iterator[Firing] | None:
    if picture.endpoints is None:
        return None
    return (Firing("webhook_disabled", str(one.webhook_id)) for one in picture.endpoints if one.is_disabled)


def webhook_failing(picture: Picture) -> Iterator[Firing] | None:
    if picture.endpoints is None:
        return None
    failing = (one for one in picture.endpoints if not one.is_disabled and one.failures >= IN_A_ROW)
    return (Firing("webhook_failing", str(one.webhook_id), detail=f"{one.failures} in a row.") for one in failing)


def channel_failing(picture: Picture) -> Iterator[Firing] | None:
    if picture.channels is None:
        return None
    failing = (one for one in picture.channels if one.failures >= IN_A_ROW)
    return (Firing("channel_failing", one.channel, detail=f"{one.failures} times in a row.") for one in failing)


def backup_missing(picture: Picture) -> list[Firing] | None:
    if picture.backups is None:
        return None
    what = "The newest verified one was begun"
    return _late("backup_missing", picture.backups.verified_at, picture, after=BACKUP_LATE, what=what)


def backup_failed(picture: Picture) -> list[Firing] | None:
    if picture.backups is None:
        return None
    return [Firing("backup_failed", INSTALLATION)] if picture.backups.has_failed else []


def drill_missing(picture: Picture) -> list[Firing] | None:
    if picture.backups is None:
        return None
    return _late("drill_missing", picture.backups.drill_at, picture, after=DRILL_LATE, what="The newest one was")


def drill_failed(picture: Picture) -> list[Firing] | None:
    if picture.backups is None:
        return None
    has_failed = picture.backups.drill_at is not None and not picture.backups.drill_ok
    return [Firing("drill_failed", INSTALLATION)] if has_failed else []


def warned(code: str) -> Fires:
    """What stands as a warning on the account."""

    def fires(picture: Picture) -> Iterator[Firing] | None:
        if picture.doubts is None:
            return None
        return (_of(one, code) for one in picture.doubts if code in one.warnings)

    return fires


def not_proven(picture: Picture) -> Iterator[Firing] | None:
    if picture.doubts is None:
        return None
    return (_of(one, "not_proven") for one in picture.doubts if one.is_unproven)


def counted(rule: str, count: Callable[[Doubt], int]) -> Fires:
    def fires(picture: Picture) -> Iterator[Firing] | None:
        if picture.doubts is None:
            return None
        return (_of(one, rule, f"Orders: {count(one)}.") for one in picture.doubts if count(one))

    return fires


def orders_unusual(picture: Picture) -> Iterator[Firing] | None:
    return None if picture.quiet is None else _unusual(picture.quiet)


def _unusual(quiet: Iterable[Quiet]) -> Iterator[Firing]:
    for one in quiet:
        if one.is_stale:
            yield Firing("orders_unusual", str(one.account_id), is_known=False)
        elif one.until - one.since >= QUIET and one.expected >= SURPRISING:
            detail = f"None for {_span(one.until - one.since)}; {one.expected:.0f} are usual."
            yield _of(one, "orders_unusual", detail)


def never(_: Picture) -> None:
    """What is noticed elsewhere: watchman.py."""
    return


def _of(one: Account | Doubt | Quiet, rule: str, detail: str = "") -> Firing:
    return Firing(rule, str(one.account_id), one.account_id, detail)


def _span(length: timedelta) -> str:
    """`90 s`, `45 min`, `30 h` or `9 days`: what a person would say."""
    seconds = max(length.total_seconds(), 0)
    for unit, size, up_to in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < up_to:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
