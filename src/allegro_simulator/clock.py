"""A clock that moves only when told to, for a world whose days must pass in a test."""

from datetime import UTC, datetime, timedelta


class Clock:
    """Call it for the time; `forward` lets time pass. Starts at an arbitrary fixed instant."""

    def __init__(self, start: datetime = datetime(2026, 7, 18, 12, 0, 0, 123_000, tzinfo=UTC)) -> None:
        self.now = start

    def __call__(self) -> datetime:
        return self.now

    def forward(self, *, days: float = 0, hours: float = 0, seconds: float = 0) -> datetime:
        """Let this much time pass; the new time."""
        self.now += timedelta(days=days, hours=hours, seconds=seconds)
        return self.now
