"""The figures of a bench against their bounds, as one line of JSON. Measures nothing."""

import json
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure and the most (`at_least`: the least) it may be."""

    value: float
    bound: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def shown(self) -> dict[str, object]:
        ratio = self.value / self.bound if self.bound else None
        least = {"at_least": True} if self.at_least else {}
        return {"value": self.value, "bound": self.bound, "of_bound": ratio, **least, "ok": self.ok}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one bench found. `figures` explain, `bounds` decide; where `is_informative` they do not decide either."""

    bench: str
    orders: int
    bounds: dict[str, Bound]
    figures: dict[str, object] = field(default_factory=dict)
    is_informative: bool = False

    @property
    def ok(self) -> bool:
        return all(bound.ok for bound in self.bounds.values())

    def line(self) -> str:
        told = {
            "bench": self.bench,
            "orders": self.orders,
            "ok": self.ok,
            **({"informative": True} if self.is_informative else {}),
            "bounds": {name: bound.shown() for name, bound in self.bounds.items()},
            "figures": self.figures,
        }
        return json.dumps(_rounded(told))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
