"""The weather of a seed: which kinds of fault it has, how often, and what would be too much even for a good service."""

from collections.abc import Callable
from dataclasses import dataclass

from .hand import HAND
from .road import LIST, TOKEN, Fault, Traffic
from .stage import Armed, Stage

BRIEF = 20.0
"""Who stands still for so long in a refresh leaves enough of the 60 seconds."""
FAMILIES = ("crash", "database", "outage", "network", "lists", "limits", "tokens", "journal", "broker", "freeze")
SPARED_AFTER = 2
"""Of Allegro's 60 seconds each interruption of a refresh costs up to 20: the third one may lose the login by right."""

ON_WIRES: dict[str, Callable[[], Armed]] = {
    "crash": lambda: _armed(("begin", "statement", "commit", "commit", "send", "answer", "file"), "crash"),
    "crash_after": lambda: _armed(("commit",), "crash_after"),
    "database": lambda: _armed(
        ("statement", "commit"), HAND.draw.choice(("cut", "deadlock", "serialization", "timeout"))
    ),
    "lost": lambda: _armed(("commit",), "lost"),
    "disk": lambda: _armed(("file",), "disk"),
    "outage": lambda: _armed(("begin", "commit"), "outage", HAND.draw.choice((3.0, 20.0, 100.0))),
    "freeze": lambda: _armed(("begin",), "freeze", HAND.draw.choice((2.0, 30.0, 50.0, 80.0))),
}
OF_FAMILY = {
    "crash": ("crash", "crash", "crash_after"),
    "database": ("database", "lost"),
    "outage": ("outage",),
    "freeze": ("freeze",),
}


def _armed(places: tuple[str, ...], action: str, seconds: float = 0.0) -> Armed:
    place = HAND.draw.choice(places)
    most = {"begin": 12, "commit": 12, "statement": 60, "send": 4, "answer": 4, "file": 4}[place]
    return Armed(place, HAND.draw.randint(1, most), action, seconds)


@dataclass(slots=True)
class Weather:
    """`rate`: the share of calls that go wrong in the families that have to do with calls."""

    stage: Stage
    families: frozenset[str]
    rate: float
    traffic: Traffic
    is_over: bool = False
    spared: int = 0
    has_aimed: bool = False
    has_frozen: bool = False
    lies: int | None = None

    def arms(self) -> None:
        """One more action waits for its boundary, if this seed has any such family."""
        mine = [family for family in OF_FAMILY if family in self.families]
        if mine and len(self.stage.armed) < 2:
            kind = HAND.draw.choice(OF_FAMILY[HAND.draw.choice(mine)])
            self.stage.armed.append(ON_WIRES[kind]())

    def aims(self) -> None:
        """Once in a story the database is away, or the process dies, where a new pair of tokens is not safe yet."""
        if self.is_over or self.has_aimed or not self.families & {"outage", "crash", "database"}:
            return
        self.has_aimed = True
        if "outage" in self.families:
            self.stage.armed = [Armed(HAND.draw.choice(("begin", "commit")), 1, "outage", 100.0)]
        else:
            self.stage.armed = [Armed(HAND.draw.choice(("begin", "commit", "file")), HAND.draw.randint(1, 3), "crash")]

    def clears_up(self) -> None:
        """No more faults; an outage that has begun takes its time."""
        self.is_over = True
        if self.stage.down_until is not None:
            HAND.forward((self.stage.down_until - HAND.now).total_seconds())
        self.stage.armed.clear()
        self.stage.down_until = None

    def may_strike(self, action: str, seconds: float) -> bool:
        """Not more often than a refresh whose answer is not on the disk yet can bear."""
        if not self._is_delicate():
            self.spared = 0
            return True
        if action == "outage" or (action == "freeze" and seconds > BRIEF) or self.spared >= SPARED_AFTER:
            return False
        self.spared += 1
        return True

    def may_stand_still(self) -> bool:
        """Whether nobody works for a while; a refresh whose outcome is open would miss its grace."""
        return not self._is_delicate()

    def choose(self, path: str) -> Fault | None:
        """What becomes of the next call."""
        if self.is_over:
            return None
        drawn = self._aimed(path) or (self._drawn(path) if HAND.draw.random() < self.rate else None)
        if drawn is None or (drawn.kind != "refused" and not self.may_strike(drawn.kind, drawn.seconds)):
            return None
        return drawn

    def _aimed(self, path: str) -> Fault | None:
        """Once in a story a process stands still in a refresh, while another one needs the token.

        And once Allegro answers several lists in a row as if nothing had been asked for.
        """
        if path == LIST and "lists" in self.families:
            if self.lies is None and HAND.draw.random() < 0.2:
                self.lies = HAND.draw.choice((1, 4, 12))
            if self.lies:
                self.lies -= 1
                return Fault("ignored_filter")
        if path != TOKEN or "freeze" not in self.families or self.has_frozen:
            return None
        self.has_frozen = True
        return Fault("freeze", seconds=HAND.draw.choice((2.0, 10.0)))

    def _drawn(self, path: str) -> Fault | None:
        draw, possible = HAND.draw, list[Fault]()
        if "network" in self.families:
            possible += [
                Fault("reset"),
                Fault("reset", after=True),
                Fault("truncated"),
                Fault("html"),
                Fault("late", seconds=draw.choice((1.0, 4.0, 25.0))),
                Fault("status", params={"code": draw.choice((500, 502, 503, 504)), "body": "html"}),
                Fault("status", after=True, params={"code": 503}),
            ]
        if "lists" in self.families and path == LIST:
            possible += [
                Fault("wrong_total", params={"delta": draw.choice((-1, 1, 3))}),
                Fault("shifted_page", params={"by": draw.choice((-1, 1))}),
                Fault("ignored_filter"),
            ]
        if "limits" in self.families and not path.startswith("/auth/"):
            retry = {"retry_after": draw.choice((5, 40))} if draw.random() < 0.5 else {}
            possible.append(Fault("status", params={"code": 429, **retry}))
        if "tokens" in self.families:
            possible += self._of_tokens(path)
        if "freeze" in self.families:
            possible.append(Fault("freeze", seconds=draw.choice((1.0, 10.0, 17.0, 50.0, 80.0))))
        return draw.choice(possible) if possible else None

    def _of_tokens(self, path: str) -> list[Fault]:
        if path != TOKEN:
            return [Fault("status", params={"code": 401})]
        lost = [Fault("lost_token_answer"), Fault("reset"), Fault("status", params={"code": 503})]
        return [*lost, Fault("refused")] if self._is_delicate() else lost

    def _is_delicate(self) -> bool:
        """Whether a refresh token may be used up, and nobody alive holds the pair that came for it or has kept it."""
        holder = self.traffic.delivered
        if holder is not None and not holder.dead and holder in self.stage.stack:
            return False
        query = """
            SELECT account_id, generation FROM account_tokens
             WHERE intent_first_at IS NOT NULL AND intent_first_at > clock_timestamp() - interval '70 s'
        """
        folder = self.stage.settings.data_dir / "spool"
        return any(
            not any(folder.glob(f"{row.account_id}.{row.generation + 1:012}-*.json")) for row in self.stage.rows(query)
        )


def drawn(stage: Stage, traffic: Traffic) -> Weather:
    """The weather of the seed that just began."""
    count = HAND.draw.choice((0, 1, 1, 2, 2, 3, 4))
    families = frozenset(HAND.draw.sample(FAMILIES, count))
    return Weather(stage, families, HAND.draw.choice((0.05, 0.15, 0.3)), traffic)
