"""What a learning-rate range test suggests."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FEWEST = 5  # points
NOISE = 3.0  # times the median change of the loss between points, which the loss must exceed to have fallen
START = 0.1  # of its fall, after which the loss is said to have begun to fall
PLATEAU = 0.9  # of the highest accuracy under PGD, at which it is said to have stopped rising
ABOVE_CHANCE = 0.05  # what the accuracy under PGD must reach above chance; otherwise the loss alone is read
GAP = 0.2  # of the accuracies under a single step and under PGD, which is catastrophic overfitting


class LearningRates(NamedTuple):
    """The ends of one cycle of the learning rate.

    Attributes:
        minimum: where training begins to learn.
        maximum: where it stops improving.
        collapse: where it collapses or diverges; None if it does neither.
    """

    minimum: float
    maximum: float
    collapse: float | None


def learning_rates(
    points: Sequence[Mapping[str, Any]], *, chance: float, diverged_at: float | None = None
) -> LearningRates:
    """Read a range test, in which the learning rate rises from step to step (Smith 2017, section 3.3).

    Loss and accuracy under PGD are first smoothed over three points. Training has collapsed where the accuracy under a
    single step exceeds that under PGD by 0.2 or more (catastrophic overfitting, in which the loss still falls), or
    where, past its peak, the accuracy under PGD is below half of that. Of the points before, the suggested maximum is
    the first whose accuracy under PGD is 0.9 of its peak: the loss often stops falling at a learning rate ten times
    smaller, while the accuracy still rises. Where PGD never leaves 0.05 more than chance, it is the point of the lowest
    loss: in standard training PGD leaves nothing, and a network that gives every image the same class is right as often
    as chance under any attack. The minimum is where the loss has done a tenth of its way down to there.

    Args:
        points: rows with the keys ``lr`` (rising), ``loss`` (adversarial training loss), ``single_step_accuracy`` and
            ``pgd_accuracy`` (on held-out images, in [0, 1]).
        chance: the accuracy of a constant answer: 1 / number of classes where classes are balanced.
        diverged_at: the learning rate at which the test ended early because the loss grew without bound.

    Raises:
        ValueError: if there are fewer than five points before the collapse, or the loss falls by less than three times
            its median change from point to point.

    Example:
        >>> losses = [2.3, 2.3, 2.2, 2.0, 1.8, 1.7, 1.9, 2.3]
        >>> pgd = [0.1, 0.1, 0.15, 0.2, 0.28, 0.3, 0.2, 0.1]
        >>> values = zip([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0], losses, pgd, strict=True)
        >>> rows = [{"lr": lr, "loss": loss, "single_step_accuracy": a, "pgd_accuracy": a} for lr, loss, a in values]
        >>> learning_rates(rows, chance=0.1)
        LearningRates(minimum=0.01, maximum=0.1, collapse=3.0)
    """
    rates, loss, single, pgd = (
        np.array([point[key] for point in points], dtype=float)
        for key in ("lr", "loss", "single_step_accuracy", "pgd_accuracy")
    )
    tested = f"between {rates[0]:.3g} and {rates[-1]:.3g}" if len(rates) else "in no step"
    bad = np.zeros(len(rates), dtype=bool)
    if len(rates):
        smooth = _smoothed(pgd)
        fallen = (np.arange(len(rates)) > smooth.argmax()) & (pgd < smooth.max() / 2)
        bad = (single - pgd >= GAP) | (fallen & (smooth.max() >= chance + ABOVE_CHANCE))
    end = int(bad.argmax()) if bad.any() else len(rates)
    if end < FEWEST:
        raise ValueError(
            f"a range test needs {FEWEST} points before training collapses, got {end}; it was run {tested}: begin "
            "lower, with a smaller optimizer.lr or schedule.low, or take more points"
        )
    noise = np.median(np.abs(np.diff(loss[:end])))
    loss, pgd = _smoothed(loss[:end]), _smoothed(pgd[:end])
    top = (pgd >= PLATEAU * pgd.max()).argmax() if pgd.max() >= chance + ABOVE_CHANCE else loss.argmin()
    if not loss[0] - loss[top] > NOISE * noise:
        raise ValueError(
            f"the loss falls nowhere {tested} by more than it varies from point to point, so that nothing can be "
            "suggested; test for longer (trainer.max_epochs), or other learning rates"
        )
    begun = loss[: top + 1] <= loss[0] - START * (loss[0] - loss[top])
    collapse = float(rates[end]) if end < len(rates) else diverged_at
    return LearningRates(float(rates[begun.argmax()]), float(rates[top]), collapse)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of every value (counted twice) and its neighbours."""
    kernel = np.array([1.0, 2.0, 1.0])
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
