"""The sentence that a comparison supports, and no more."""

from collections.abc import Sequence

from kafnets.analysis.over_runs import MCNEMAR
from lightning_modules.comparison.groups import Group
from lightning_modules.comparison.pairs import LEVEL, Pair, differing_axes

NAMED = 3  # pairs that a sentence names


def statement(groups: Sequence[Group], pairs: Sequence[Pair]) -> str:
    """Return what the corrected tests of one measurement say, in one to three sentences.

    Args:
        groups: all groups.
        pairs: the pairs of one measurement, as :func:`~lightning_modules.comparison.pairs.compare_pairs` returns them.
    """
    tested = [pair for pair in pairs if pair.found]
    if not tested:
        return _untested(pairs)
    threat = groups[tested[0].a].measured.threat
    clear = sorted((pair for pair in tested if pair.significant), key=_strength)
    if clear:
        best = _best(groups, tested)
        claims = [best] if best else [_claim(groups, pair) for pair in clear[:NAMED]]
        text = f"Under {threat}, {'; '.join(claims)}."
        if len(tested) > max(len(claims), 1):
            text += f" Of {len(tested)} pairs that were tested, {len(clear)} differ{'s' * (len(clear) == 1)}."
    else:
        text = f"{_nothing(groups, tested)} under {threat}. {_largest(groups, tested)}"
    return " ".join([text, *_reserve(groups, pairs)])


def method(pairs: Sequence[Pair]) -> str:
    """Return which tests were made and how they were corrected."""
    tested = [pair for pair in pairs if pair.found]
    if not tested:
        return ""
    names = dict.fromkeys(pair.found.test for pair in tested if pair.found)
    count = f"{len(tested)} tests, p-values corrected by Holm's method" if len(tested) > 1 else "one test"
    return f"Tests: {'; '.join(names)}; {count}, level {LEVEL:g}. Intervals are 95 % intervals of a single pair."


def _strength(pair: Pair) -> tuple[float, float]:
    assert pair.found and pair.adjusted is not None
    return (round(pair.adjusted, 3), -abs(pair.found.difference))


def _oriented(groups: Sequence[Group], pair: Pair) -> tuple[str, str, str]:
    """The more robust of a pair, the other, and the difference with its interval and p-value."""
    found = pair.found
    assert found and pair.adjusted is not None
    better, worse, sign = (pair.a, pair.b, 1) if found.difference > 0 else (pair.b, pair.a, -1)
    low, high = sorted((100 * sign * found.low, 100 * sign * found.high))
    size = f"{100 * abs(found.difference):.1f} points [{low:.1f}, {high:.1f}]"
    seed = "" if pair.seed is None else f"runs of seed {pair.seed}, "
    return groups[better].label, groups[worse].label, f"{size} ({seed}p {_p(pair.adjusted)})"


def _claim(groups: Sequence[Group], pair: Pair) -> str:
    better, worse, size = _oriented(groups, pair)
    return f"{better} is more robust than {worse} by {size}"


def _best(groups: Sequence[Group], tested: Sequence[Pair]) -> str:
    """The claim that one group is more robust than every other, if the tests support it."""
    measured = groups[tested[0].a].measured
    rivals = [i for i, each in enumerate(groups) if each.measured == measured]
    first = rivals.pop(0)  # groups are ordered by their mean; a test of single runs may tell the opposite
    own = [pair for pair in tested if pair.a == first and pair.significant and pair.found and pair.found.difference > 0]
    if len(own) < max(2, len(rivals)):
        return ""
    closest = min(own, key=lambda pair: abs(pair.found.difference) if pair.found else 0.0)
    better, worse, size = _oriented(groups, closest)
    return f"{better} is more robust than each of the {len(own)} others; the closest is {worse}, by {size}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _nothing(groups: Sequence[Group], tested: Sequence[Pair]) -> str:
    apart = [differing_axes(groups[pair.a], groups[pair.b]) for pair in tested]
    nouns = [f"no {name}" for name in groups[0].axes if any(name in axes for axes in apart)]
    nouns += [] if all(apart) else ["no training"]
    text = f"{', '.join(nouns[:-1])} and {nouns[-1]}" if len(nouns) > 1 else nouns[0]
    return f"{text[0].upper()}{text[1:]} is significantly more robust than another"


def _largest(groups: Sequence[Group], tested: Sequence[Pair]) -> str:
    pair = max(tested, key=lambda pair: abs(pair.found.difference) if pair.found else 0.0)
    if not (pair.found and pair.found.difference):
        return "In no tested pair do the robust accuracies differ."
    better, worse, size = _oriented(groups, pair)
    return f"The largest difference, {better} over {worse}, is {size}."


def _reserve(groups: Sequence[Group], pairs: Sequence[Pair]) -> list[str]:
    """What limits the statement: pairs without a test, single runs, and sanity checks that complain."""
    reserves = []
    untested = [pair for pair in pairs if not pair.found]
    if untested:
        count = f"{len(untested)} pair{'s' if len(untested) > 1 else ''}"
        reserves.append(f"{count} could not be tested ({_reasons(untested)}).")
    tested = [pair for pair in pairs if pair.found]
    if any(pair.found and pair.found.test == MCNEMAR for pair in tested):
        every = all(len(groups[i].members) == 1 for pair in tested for i in (pair.a, pair.b))
        start = "There is one run of each" if every else "Some have one run"
        reserves.append(
            f"{start}, so their tests hold for these trained networks, not for other runs of the trainings."
        )
    doubted = [
        groups[i].label for i in sorted({i for pair in tested for i in (pair.a, pair.b)}) if groups[i].complaints
    ]
    if doubted:
        names = ", ".join(doubted[:NAMED]) + (f" and {len(doubted) - NAMED} more" if len(doubted) > NAMED else "")
        reserves.append(f"Sanity checks complain about {names}: the true robust accuracy may be lower.")
    return reserves


def _untested(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "There is nothing to compare: no two trainings were measured in the same way."
    return f"No pair can be tested, so nothing is said about which is more robust ({_reasons(pairs)})."


def _reasons(pairs: Sequence[Pair]) -> str:
    return "; ".join(dict.fromkeys(pair.reason for pair in pairs))
