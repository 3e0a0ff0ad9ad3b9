"""Checks whether a robust accuracy can be trusted, each with its numbers and advice.

Most are from Athalye, Carlini, Wagner (2018, section 3.1) and Carlini et al. (2019, sections 3 to 5). Shares are judged
by exact binomial tests, and pairs of attacks by the images that only one of them broke, so that few images give few
false alarms: a check complains when the data exclude its tolerance, not when the estimate exceeds it. Images that fall
to an attack without gradients alone are named in any case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from scipy.stats import binom
from torch import Tensor

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.metrics import wilson_interval

Status: TypeAlias = Literal["pass", "warn", "fail", "not run"]
Facts: TypeAlias = Mapping[str, set[str]]

# On robust nets, good gradient attacks differ from each other by one to three points, and one kind finds less than one
# point beyond the worst case of the others: two points more are no accident.
BEYOND = 0.02
SIGNIFICANT = 0.05
# On a few images of a good net the loss saturates and its gradient is zero; half a per cent changes an accuracy.
ZERO_GRADIENTS = 0.005
# With unlimited perturbations nearly every image must fall; an attack may fail by chance on one per cent.
UNBOUNDED = 0.01
# A network that random noise in the ball fools on one image in ten was not trained for this ball.
NOISE = 0.1
# Where a gradient is useful, the margin changes by what it predicts, or more; good nets give 0.9 to 1.1.
USEFUL_GAIN, USELESS_GRADIENTS = 0.5, 0.1
# Ten steps along the gradient raise the loss of every image except those that start at a maximum.
FLAT_LOSS = 0.02


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what should hold.
        status: ``pass``; ``warn`` if the robust accuracy may be too high; ``fail`` if something is broken; ``not run``.
        numbers: the counts that decided, as text.
        advice: what to do; empty if nothing needs to be done.
        images: the numbers of images that should be looked at, whatever the status.
    """

    name: str
    status: Status
    numbers: str
    advice: str = ""
    images: tuple[int, ...] = ()


def sanity_checks(results: PerImageResults, facts: Facts) -> list[Check]:
    """Judge what :class:`~kafnets.analysis.robustness_study.RobustnessStudy` measured.

    Args:
        results: its results per image.
        facts: its names of modules in training mode, operations in half precision, and changed state.

    Returns:
        Every check, in a fixed order; one whose columns are missing is ``not run``. If the network answers at random,
        so are those that compare two answers for the same image.

    Example:
        >>> import torch
        >>> ones = torch.ones(3)
        >>> results = PerImageResults({"index": torch.arange(3), "clean": ones, "probe/probabilities": ones})
        >>> [check.name for check in sanity_checks(results, {}) if check.status == "fail"]
        ['outputs are logits']
    """
    random = _every("the same input gives the same output", results, "probe/repeatable", RANDOM)
    comparing = [
        _unbounded(results),
        _not_stronger("black box is not stronger than white box", results, "black", MASKED),
        _not_stronger("a single step is not stronger than many", results, "single", SINGLE),
        _not_stronger("transfer from a surrogate is not stronger than white box", results, "transfer", TRANSFER),
        _not_weaker("more steps are not weaker", results, "steps"),
        _not_weaker("more restarts are not weaker", results, "restarts"),
        _converged("more steps find nothing new", results, "steps"),
        _converged("more restarts find nothing new", results, "restarts"),
        _noise(results),
        _gradients_useful(results),
        _loss_rises(results),
        _every("an output does not depend on the rest of the batch", results, "probe/batch_independent", BATCH),
        _no_image("robust accuracy does not exceed clean", results, "repaired", REPAIRED),
    ]
    if random.status == "fail":
        comparing = [Check(check.name, "not run", NOT_REPEATABLE) for check in comparing]
    return [
        random,
        *comparing,
        _gradients_there(results),
        _none_of("no module is in training mode", facts, "training", "fail", "call net.eval() before measuring"),
        _none_of("the evaluation changed nothing in the network", facts, "changed", "fail", CHANGED),
        _no_image("adversarial images lie in the ball and in [0, 1]", results, "outside", OUTSIDE),
        _logits(results),
        _none_of("no half precision on the attacked path", facts, "half", "warn", HALF),
    ]


NOT_REPEATABLE = "the network answers at random, and this check compares answers for the same image"
STUCK = (
    "gradients are masked, or the attack stops too early: use more steps, more restarts, another loss, or finite "
    "differences"
)
MASKED = (
    "gradients are masked: attack with a loss and a gradient that suit the network (finite differences, BPDA, EOT, a "
    "margin loss); the worst case is an upper bound at best"
)
SINGLE = "the iterative attack has bad settings, or gradients mislead: use more steps, smaller steps, or a margin loss"
NOISY = (
    "the decision boundary is nearer than the attack suggests: if noise breaks half as many images as the attack, the "
    "attack is weak; otherwise the network was not trained for this ball"
)
SATURATED = "logits saturate or a layer has no slope: use a margin or DLR loss, float64, BPDA, or finite differences"
ROUGH = "the loss is rough at the scale of eps / 8: smooth it (EOT, finite differences), or attack without gradients"
TRANSFER = (
    "gradients are masked: a surrogate's break images that the network's own do not; use BPDA or attack a surrogate"
)
RANDOM = (
    "the network draws random numbers (dropout in training mode?): switch them off, or average over them (EOT, "
    "AutoAttack 'rand')"
)
BATCH = "outputs depend on batch statistics or rounding: put batch norm into evaluation mode; use float32 or float64"
CHANGED = "measure on a copy, and find what writes to the network: these figures mix different networks"
REPAIRED = "an attack made wrong images right: it was given predictions or wrong labels instead of the true ones"
OUTSIDE = "the attack leaves its ball: project its images after every step, in their own dtype"
HALF = "small gradients round to zero there: evaluate in float32, without autocast"


def _unbounded(results: PerImageResults) -> Check:
    name = "an unbounded attack reaches 0 %"
    columns = results.named("eps")
    if not columns:
        return _not_run(name)
    eps, right = list(columns.items())[-1]
    left, total = _counts(right[results["clean"] == 1])
    status: Status = "pass" if left == 0 else "fail" if _exceeds(left, total, UNBOUNDED) else "warn"
    numbers = f"{_of(left, total)} images left at eps {float(eps):.4g}"
    return Check(name, status, numbers, "" if left == 0 else STUCK)


def _not_stronger(name: str, results: PerImageResults, role: str, advice: str) -> Check:
    """Compare the attacks of a role with the white-box ones, image by image.

    An attack that breaks images alone and misses none is suspect however few they are.
    """
    if not (results.named(role) and results.named("white")):
        return _not_run(name)
    white, other = results.worst("white") == 1, results.worst(role) == 1
    named = results["index"][white & ~other].long().tolist()
    alone, missed = len(named), int((other & ~white).sum())
    chance = _at_least(alone, alone + missed, 0.5)
    stronger = alone > missed and (chance < SIGNIFICANT or missed == 0)
    bad = stronger or _exceeds(alone, len(results), BEYOND)
    numbers = (
        f"broke {_of(alone, len(results))} images that white-box attacks did not, they {missed} that it did not "
        f"(one-sided exact p = {chance:.2g})"
    )
    if named:
        more = f" and {alone - 10} more" if alone > 10 else ""
        numbers += f": {'image' if alone == 1 else 'images'} {', '.join(map(str, named[:10]))}{more}"
    return Check(name, "warn" if bad else "pass", numbers, advice if bad else "", tuple(named))


def _not_weaker(name: str, results: PerImageResults, kind: str) -> Check:
    columns = list(results.named(kind).items())
    if len(columns) < 2:
        return _not_run(name)
    worse = []
    for (few, before), (more, after) in pairwise(columns):
        lost, gained = int(((before == 0) & (after == 1)).sum()), int(((before == 1) & (after == 0)).sum())
        if lost > gained and _at_least(lost, lost + gained, 0.5) < SIGNIFICANT:
            worse.append(f"{more} broke {gained} that {few} did not, and missed {lost}")
    numbers = "; ".join(worse) or " -> ".join(f"{100 * _mean(right):.1f} %" for _, right in columns)
    advice = "the attack or the network is random: keep the worst iterate of every start; average over the noise (EOT)"
    return Check(name, "warn" if worse else "pass", numbers, advice if worse else "")


def _converged(name: str, results: PerImageResults, kind: str) -> Check:
    columns = list(results.named(kind).items())
    if len(columns) < 2:
        return _not_run(name)
    (few, before), (more, after) = columns[-2:]
    gained, total = int(((before == 1) & (after == 0)).sum()), _counts(after)[1]
    bad = _exceeds(gained, total, BEYOND)
    numbers = f"from {few} to {more} {kind}: {_of(gained, total)} images more"
    return Check(name, "warn" if bad else "pass", numbers, f"not converged: use more {kind}" if bad else "")


def _noise(results: PerImageResults) -> Check:
    name = "noise is not an attack"
    if not results.named("noise"):
        return _not_run(name)
    clean = results["clean"] == 1
    by_noise, total = _counts(results.worst("noise")[clean] == 0)
    by_attack = int((results.worst("white")[clean] == 0).sum())
    bad = _exceeds(by_noise, total, NOISE) or (_exceeds(by_noise, total, BEYOND) and by_noise > by_attack / 2)
    numbers = f"noise broke {_of(by_noise, total)} images that were right, white-box attacks {by_attack}"
    return Check(name, "warn" if bad else "pass", numbers, NOISY if bad else "")


def _gradients_there(results: PerImageResults) -> Check:
    name = "gradients are neither zero nor non-finite"
    if "probe/zero_gradient" not in results.columns:
        return _not_run(name)
    zero, total = _counts(results["probe/zero_gradient"])
    bad, _ = _counts(results["probe/nonfinite_gradient"])
    broken = bad > 0 or _exceeds(zero, total, 0.1)
    status: Status = "fail" if broken else "warn" if _exceeds(zero, total, ZERO_GRADIENTS) else "pass"
    numbers = f"zero on {_of(zero, total)}, non-finite on {bad}"
    return Check(name, status, numbers, "" if status == "pass" else SATURATED)


def _gradients_useful(results: PerImageResults) -> Check:
    name = "gradients predict what a small step does"
    if "probe/gain" not in results.columns:
        return _not_run(name)
    gain = results["probe/gain"]
    useless, total = int((~(gain >= USEFUL_GAIN)).sum()), len(gain)  # NaN, no predicted change, is useless too
    known = gain[~gain.isnan()]
    bad = _exceeds(useless, total, USELESS_GRADIENTS)
    numbers = f"the margin rose by less than half of the prediction on {_of(useless, total)}; median ratio "
    numbers += f"{float(known.median()):.2f}" if len(known) else "-"
    return Check(name, "warn" if bad else "pass", numbers, ROUGH if bad else "")


def _loss_rises(results: PerImageResults) -> Check:
    name = "the loss rises along the attack"
    losses = results.named("loss")
    if not losses:
        return _not_run(name)
    first, last = (values[results["clean"] == 1] for values in (losses["0"], list(losses.values())[-1]))
    measured = ~first.isnan()
    flat, total = int((~(last > first) & measured).sum()), int(measured.sum())
    bad = _exceeds(flat, total, FLAT_LOSS)
    means = " -> ".join(f"{_mean(values):.2f}" for values in (losses["0"], list(losses.values())[-1]))
    advice = "gradients do not increase the loss: check the loss, the step size, and layers without a slope"
    return Check(name, "warn" if bad else "pass", f"not on {_of(flat, total)}; mean {means}", advice if bad else "")


def _every(name: str, results: PerImageResults, column: str, advice: str) -> Check:
    if column not in results.columns:
        return _not_run(name)
    good, total = _counts(results[column])
    numbers = f"it differed on {_of(total - good, total)}"
    return Check(name, "fail" if good < total else "pass", numbers, advice if good < total else "")


def _no_image(name: str, results: PerImageResults, kind: str, advice: str) -> Check:
    columns = results.named(kind)
    if not columns:
        return _not_run(name)
    counts = {attack.partition("/")[2]: int((values == 1).sum()) for attack, values in columns.items()}
    bad = {attack: count for attack, count in counts.items() if count}
    numbers = "; ".join(f"{attack}: {_of(count, len(results))}" for attack, count in bad.items())
    return Check(name, "fail" if bad else "pass", numbers or "no image violates it", advice if bad else "")


def _none_of(name: str, facts: Facts, kind: str, status: Status, advice: str) -> Check:
    if kind not in facts:
        return _not_run(name)
    found = sorted(facts[kind])
    if not found:
        return Check(name, "pass", "none")
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return Check(name, status, f"{', '.join(found[:3])}{more}", advice)


def _logits(results: PerImageResults) -> Check:
    name = "outputs are logits"
    if "probe/probabilities" not in results.columns:
        return _not_run(name)
    found, total = _counts(results["probe/probabilities"])
    bad = 2 * found > total
    advice = "attack the outputs before the softmax: after it, the gradients of certain predictions vanish"
    numbers = f"{_of(found, total)} outputs are non-negative and sum to 1"
    return Check(name, "fail" if bad else "pass", numbers, advice if bad else "")


def _not_run(name: str) -> Check:
    return Check(name, "not run", "nothing was measured for it")


def _exceeds(count: int, total: int, tolerance: float) -> bool:
    """Whether a share is significantly above its tolerance: P(this many or more | tolerance) < 2.5 %, exact."""
    return _at_least(count, total, tolerance) < 0.025


def _at_least(count: int, total: int, chance: float) -> float:
    """P(X >= count) for X ~ Binomial(total, chance)."""
    return float(binom.sf(count - 1, total, chance))


def _counts(values: Tensor) -> tuple[int, int]:
    """The number of ones, and the number of measured values."""
    return int((values == 1).sum()), int((~values.double().isnan()).sum())


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())


def _of(count: int, total: int) -> str:
    low, high = wilson_interval(count, total)
    share = f"{100 * count / total:.1f} %" if total else "-"
    return f"{count} of {total} ({share}, 95 % [{100 * low:.1f}, {100 * high:.1f}])"
