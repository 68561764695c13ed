"""A state machine against the product: any order of things, jobs, crashes and waits; the model is Allegro's truth."""

import contextlib
import os
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy.engine import Engine

from allegro_simulator.world import NotPossibleError

from . import checks, story
from .hand import HAND
from .road import Fault
from .stage import Armed

EXAMPLES = int(os.environ.get("CAMPAIGN_EXAMPLES", "12"))
STEPS = int(os.environ.get("CAMPAIGN_STEPS", "12"))
CALM: dict[str, Any] = {"orders": 4, "limit": 9_000, "skews": (0.0,), "event_lag": 0.0}
FAULTS = ("reset", "truncated", "html")


class Shop(RuleBasedStateMachine):
    """Its rules; `engine` is set by the test."""

    engine: ClassVar[Engine]

    @initialize(seed=st.integers(0, 50), small=st.booleans(), life=st.sampled_from([400, 43_199]))
    def connects(self, seed: int, small: bool, life: int) -> None:
        self.stack = contextlib.ExitStack()
        options = {**CALM, "small_pages": small, "access_token": life}
        self.story = self.stack.enter_context(story.begun(self.engine, seed, families=frozenset(), **options))
        self.fault: Fault | None = None
        self.story.traffic.choose = self._chosen
        self.story.connects()

    def _chosen(self, _: str) -> Fault | None:
        fault, self.fault = self.fault, None
        return fault

    @rule(times=st.integers(1, 4))
    def things_happen(self, times: int) -> None:
        with contextlib.suppress(NotPossibleError):
            self.story.stage.world.happens(self.story.seller_id, times)

    @rule()
    def two_orders_merge(self) -> None:
        world, seller = self.story.stage.world, self.story.seller_id
        world.merges(world.buys(seller), world.buys(seller))

    @rule()
    def an_event_comes_twice(self) -> None:
        self.story.stage.world.duplicates_event(self.story.seller_id)

    @rule()
    def a_job_runs(self) -> None:
        self.story.turn()

    @rule(seconds=st.sampled_from([1, 20, 46, 300, 4_000]))
    def time_passes(self, seconds: int) -> None:
        HAND.forward(seconds)

    @rule(place=st.sampled_from(["begin", "statement", "commit", "send", "answer", "file"]), count=st.integers(1, 40))
    def somebody_will_crash(self, place: str, count: int) -> None:
        if not self.story.stage.armed:
            self.story.stage.armed.append(Armed(place, count, "crash"))

    @rule(action=st.sampled_from(["crash_after", "lost", "cut", "deadlock"]), count=st.integers(1, 12))
    def a_commit_will_go_wrong(self, action: str, count: int) -> None:
        if not self.story.stage.armed:
            self.story.stage.armed.append(Armed("commit", count, action))

    @rule(seconds=st.sampled_from([2.0, 30.0, 50.0]), count=st.integers(1, 10))
    def a_process_will_stand_still(self, seconds: float, count: int) -> None:
        if not self.story.stage.armed:
            self.story.stage.armed.append(Armed("begin", count, "freeze", seconds))

    @rule(kind=st.sampled_from(FAULTS), after=st.booleans())
    def an_answer_will_be_lost(self, kind: str, after: bool) -> None:
        self.fault = Fault(kind, after=after)

    @invariant()
    def what_must_always_hold_holds(self) -> None:
        if hasattr(self, "story"):
            checks.always(self.story)
            assert not self.story.stage.trouble, self._told()

    def teardown(self) -> None:
        if not hasattr(self, "story"):
            return
        with self.stack:
            self.fault = None
            self.story.settles()
            checks.finally_(self.story, proven=False)
            assert not self.story.stage.trouble, self._told()

    def _told(self) -> str:
        return "\n".join([*self.story.stage.trace[-40:], *self.story.stage.trouble])


@pytest.mark.timeout(1_800)
def test_any_order_of_things_leaves_everything_as_promised(engine: Engine) -> None:
    Shop.engine = engine
    run_state_machine_as_test(
        Shop,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
