"""What the rules look at: facts, none of them about a buyer or an order. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Account:
    """A connected account. `failing`: its jobs that failed three times in a row; `is_allegro_away`: one of them because
    Allegro did not answer, or with 5xx. `followed_at`: when its journal was last read to its end; `polled_every`: how
    often that is meant to be, as it was chosen last."""

    account_id: UUID
    is_active: bool
    is_paused: bool
    followed_at: datetime | None
    is_stale: bool
    polled_every: timedelta = timedelta(0)
    failing: Sequence[str] = ()
    is_allegro_away: bool = False
    login_expired_at: datetime | None = None
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook. `failures`: attempts that failed one after the other."""

    webhook_id: UUID
    is_disabled: bool
    failures: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A way out by which sending failed `failures` times in a row."""

    channel: str
    failures: int


@dataclass(frozen=True, slots=True)
class Backups:
    """How the backups of the database and their rehearsals are; `…_at` None: there was none yet."""

    verified_at: datetime | None
    has_failed: bool
    drill_at: datetime | None
    drill_ok: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """What may stand between an account and completeness. `warnings`: codes as on the account; `owed`: orders that have
    had to be read for more than an hour, `failing`: whose reading failed three times in a row."""

    account_id: UUID
    warnings: frozenset[str]
    is_unproven: bool = False
    owed: int = 0
    failing: int = 0
    set_aside: int = 0


@dataclass(frozen=True, slots=True)
class Quiet:
    """An account without an order since `since`, its journal read until `until`; `expected`: orders that this span has
    on average. `is_stale`: the journal was not read of late, so nobody knows."""

    account_id: UUID
    since: datetime
    until: datetime
    expected: float
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that one round looked at. None: it did not look, or could not, so that the rules about it say
    nothing. `began_at`: since when anybody looks at all; what has never happened is late from then on."""

    now: datetime
    began_at: datetime
    events_interval: timedelta
    failing_parts: dict[str, str] | None = None
    workers_answered: timedelta | None = None
    ticked_at: datetime | None = None
    waiting: dict[str, float] = field(default_factory=dict)
    silent_until: datetime | None = None
    accounts: Sequence[Account] | None = None
    failing_work: Sequence[tuple[str, str]] = ()
    endpoints: Sequence[Endpoint] | None = None
    channels: Sequence[Channel] | None = None
    backups: Backups | None = None
    doubts: Sequence[Doubt] | None = None
    quiet: Sequence[Quiet] | None = None
