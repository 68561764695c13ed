"""The plan of a campaign: a function of its seed, fair to every kind."""

from collections import Counter
from itertools import islice

from . import databases, illnesses, plan, scale, strikes, whims

KINDS = [*strikes.KINDS, *databases.KINDS, *databases.ON_VOLUMES, *illnesses.KINDS, *whims.KINDS]


def _dealt(seed: int, rounds: int) -> list[tuple[plan.Fault, ...]]:
    return list(islice(plan.rounds(KINDS, seed), rounds))


def test_a_seed_gives_the_same_plan_every_time_and_another_seed_another() -> None:
    assert list(map(str, sum(_dealt(7, 50), ()))) == list(map(str, sum(_dealt(7, 50), ())))
    assert list(map(str, sum(_dealt(7, 50), ()))) != list(map(str, sum(_dealt(8, 50), ())))


def test_among_300_faults_every_kind_comes_and_the_heavy_ones_more_often() -> None:
    faults = [fault for together in _dealt(1, 300) for fault in together][:300]
    counts = Counter(fault.kind.name for fault in faults)

    assert set(counts) == {kind.name for kind in KINDS}
    assert counts["lose COMMIT's answer"] > counts["kill API"]


def test_what_comes_together_is_of_different_groups_and_what_wants_to_be_alone_is() -> None:
    for together in _dealt(1, 300):
        assert len({fault.kind.group for fault in together}) == len(together)
        assert len(together) == 1 or not any(fault.kind.alone for fault in together)


def test_every_fault_has_a_number_a_length_in_its_bounds_and_a_known_victim() -> None:
    faults = [fault for together in _dealt(3, 100) for fault in together]

    assert [fault.number for fault in faults] == list(range(1, len(faults) + 1))
    for fault in faults:
        assert fault.kind.seconds[0] <= fault.seconds <= fault.kind.seconds[1]
        assert fault.victim in fault.kind.victims


def test_the_slice_deals_only_kinds_that_there_are() -> None:
    assert {kind.name for kind in KINDS} >= scale.IN_THE_SLICE
