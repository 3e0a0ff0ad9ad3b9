"""Tests of the robust accuracies of pairs of groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from torch import Tensor

from kafnets.analysis.over_runs import Difference, holm, one_run_each, runs_alone, runs_and_images
from lightning_modules.comparison.groups import Group

LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two groups that were measured in the same way, compared.

    Attributes:
        a, b: their places in the list of groups.
        found: the difference ``a - b`` of their robust accuracies, and the p-value; None if it can't be tested.
        adjusted: the p-value after Holm's correction for all tests of this measurement; None without a test.
        reason: why there is no test, empty if there is one.
        seed: where one run is compared with the run of the same seed of a larger group, that seed; otherwise None.
    """

    a: int
    b: int
    found: Difference | None
    adjusted: float | None
    reason: str = ""
    seed: int | None = None

    @property
    def significant(self) -> bool:
        """Whether the corrected test tells the two apart."""
        return self.adjusted is not None and self.adjusted < LEVEL


def compare_pairs(groups: Sequence[Group]) -> list[Pair]:
    """Test the pairs of groups that were measured in the same way and differ in as few axes as possible.

    In a grid those are the pairs that differ in one axis. Pairs that differ in more axes could not say what the
    difference is due to, and would weaken the correction for the number of tests, which counts the tests of one
    measurement. The study counts as an axis. Pairs that differ in no axis, such as trainings of which only the
    configurations tell that they are two, are tested besides.
    """
    right = [each.outcomes() for each in groups]
    pairs: list[Pair] = []
    for measured in dict.fromkeys(each.measured for each in groups):
        numbers = [i for i, each in enumerate(groups) if each.measured == measured]
        apart = {(a, b): _differing(groups[a], groups[b]) for a, b in combinations(numbers, 2)}
        least = min((count for count in apart.values() if count), default=0)
        closest = [pair for pair, count in apart.items() if count <= least]
        pairs += _corrected([_test(groups, right, a, b) for a, b in closest])
    return pairs


def differing_axes(a: Group, b: Group) -> list[str]:
    """Return the names of the axes on which two groups differ."""
    return [name for name in a.axes if a.axes[name] != b.axes[name]]


def _differing(a: Group, b: Group) -> int:
    return len(differing_axes(a, b)) + (a.study != b.study)


def _test(groups: Sequence[Group], right: Sequence[Tensor | None], a: int, b: int) -> Pair:
    first, second = groups[a], groups[b]
    one, two = right[a], right[b]
    sizes = sorted(len(each.members) for each in (first, second))
    if one is None or two is None:
        if sizes[0] == 1:
            return Pair(
                a, b, None, None, "one run, and no results per image; train several seeds, or test with eval_full.yaml"
            )
        accuracies = [[member.record["robust"]["accuracy"] for member in each.members] for each in (first, second)]
        return Pair(a, b, runs_alone(*accuracies), None)
    if sizes[0] > 1:
        return Pair(a, b, runs_and_images(one, two), None)
    if sizes[1] == 1:
        return Pair(a, b, one_run_each(one[0], two[0]), None)
    shared = {member.seed for member in first.members} & {member.seed for member in second.members}
    if not shared:
        return Pair(a, b, None, None, "one run against several, and no seed in common")
    seed = shared.pop()
    rows = [[member.seed for member in each.members].index(seed) for each in (first, second)]
    return Pair(a, b, one_run_each(one[rows[0]], two[rows[1]]), None, seed=seed)


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    tested = [pair.found.p_value for pair in pairs if pair.found]
    adjusted = iter(holm(tested))
    return [replace(pair, adjusted=next(adjusted)) if pair.found else pair for pair in pairs]
