"""Accuracies of several training runs: intervals of their mean, and tests whether two groups of runs differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_ind
from torch import Tensor

from kafnets.analysis.comparison import compare


@dataclass(frozen=True)
class Spread:
    """The mean of several runs.

    Attributes:
        runs: number of runs, >= 2.
        mean: their mean.
        std: their standard deviation, with ``runs - 1`` in the denominator.
        low, high: 95 % interval of the mean.
    """

    runs: int
    mean: float
    std: float
    low: float
    high: float


def spread(values: Sequence[float], *, confidence: float = 0.95) -> Spread:
    """The mean of one figure over several runs: ``mean -+ t std / sqrt(runs)``, t with ``runs - 1`` degrees of freedom.

    Raises:
        ValueError: if there are fewer than two values.

    Example:
        >>> found = spread([0.40, 0.42, 0.44])
        >>> f"{found.mean:.2f} {found.std:.2f} {found.low:.3f} {found.high:.3f}"
        '0.42 0.02 0.370 0.470'
    """
    if len(values) < 2:
        raise ValueError(f"a spread needs two runs or more, got {len(values)}")
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(student.ppf((1 + confidence) / 2, len(values) - 1)) * std / sqrt(len(values))
    return Spread(len(values), mean, std, mean - half, mean + half)


def accuracy_over_runs(
    accuracies: Sequence[float], images: int, right: Tensor | None = None, *, confidence: float = 0.95
) -> Spread:
    r"""The mean accuracy of several runs on the same images, with an interval in which runs and images are both random.

    The interval is meant for further runs and further images. With the results per image, the variance of the mean is
    that of one group in :func:`runs_and_images`::

        V = max(W, E) + max(I - E, 0)
        W = s^2 / R                 s^2: variance of the runs' accuracies
        I = Var_i(mean_r x_ri) / N  what the images alone would explain if the runs were fixed
        E = e / (R N)               e: residual mean square of runs x images, part of both W and I

    Without them it is ``V = W + p (1 - p) / N``: the images' part can't be larger than it is for runs that are right on
    the same images, so this interval is rather too wide than too narrow. The ends are Wilson's, with ``n = p (1 - p) /
    V`` images in place of N (Kott and Carr 1997) and the t quantile of ``V^2 / (W^2 / (R - 1))`` degrees of freedom in
    place of the normal one::

        (p + t^2/2n -+ t sqrt(p (1 - p) / n + t^2 / 4n^2)) / (1 + t^2 / n)

    Equal runs without results per image get Wilson's interval of one run. Few runs that differ by much more than the
    images explain get an interval that holds p less often than it says.

    Args:
        accuracies: of each run, in [0, 1]; two or more.
        images: number of images N of each run, >= 1.
        right: bool ``(R, N)``, N >= 2, which images each run classifies correctly; None if unknown.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: if there are fewer than two runs, or ``right`` has another shape than ``(R, N)``.

    Example:
        >>> found = accuracy_over_runs([0.3, 0.3, 0.3], 1000)
        >>> f"{found.mean:.3f} {found.std:.3f} [{found.low:.3f}, {found.high:.3f}]"
        '0.300 0.000 [0.272, 0.329]'
    """
    if len(accuracies) < 2:
        raise ValueError(f"a spread needs two runs or more, got {len(accuracies)}")
    if right is not None and (right.shape != (len(accuracies), images) or images < 2):
        raise ValueError(f"right must be ({len(accuracies)}, {images}), two images or more, got {tuple(right.shape)}")
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))
    share = mean * (1 - mean)
    if right is None:
        runs = std**2 / len(accuracies)
        variance = runs + share / images
        freedom = _freedom(variance, [runs], [len(accuracies)])
    else:
        x = right.double().numpy()
        variance, freedom = _variance([x], x.mean(0))
    n = share / variance if variance > ROUNDING else images  # all right, or all wrong: there is no variance
    t = float(student.ppf((1 + confidence) / 2, freedom))
    centre, half, scale = mean + t**2 / (2 * n), t * sqrt(share / n + t**2 / (4 * n**2)), 1 + t**2 / n
    return Spread(len(accuracies), mean, std, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


@dataclass(frozen=True)
class Difference:
    """How much more accurate one group of runs is than another.

    Attributes:
        difference: the difference of the mean accuracies, in [-1, 1].
        low, high: its 95 % interval.
        p_value: of the hypothesis that there is no difference.
        test: the name of the test.
    """

    difference: float
    low: float
    high: float
    p_value: float
    test: str


MCNEMAR = "McNemar's exact test on the same images, one run each"
MIXED = "mixed-effects t test over runs and images (Dorfman, Berbaum and Metz 1992; Hillis 2014)"
WELCH = "Welch's t test over runs, on these images"
ROUNDING = 1e-15  # variances of shares below it are zero


def one_run_each(a: Tensor, b: Tensor) -> Difference:
    """Two networks on the same images, see :func:`~kafnets.analysis.comparison.compare`.

    The answer holds for these two networks. It says nothing of other runs of the same training.

    Args:
        a, b: bool ``(N,)``, which images each classifies correctly.
    """
    found = compare(a, b)
    return Difference(found.difference, found.low, found.high, found.p_value, MCNEMAR)


def runs_alone(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """Welch's t test of the accuracies of two groups of runs, for runs without results per image.

    The images count as fixed: the answer holds for further runs on these images. If the runs of each group agree
    exactly, there is no spread to judge by: the p-value is 1 and the interval all of [-1, 1].

    Args:
        a, b: the accuracy of each run, two or more each.

    Example:
        >>> round(runs_alone([0.40, 0.41, 0.42], [0.43, 0.45, 0.44]).p_value, 4)
        0.0213
    """
    _check_runs(len(a), len(b))
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    difference = float(np.mean(a) - np.mean(b))
    if sum(parts) <= ROUNDING:
        return Difference(difference, -1.0, 1.0, 1.0, WELCH)
    found = ttest_ind(a, b, equal_var=False)
    interval = found.confidence_interval(confidence)
    return Difference(difference, float(interval.low), float(interval.high), float(found.pvalue), WELCH)


def runs_and_images(a: Tensor, b: Tensor, *, confidence: float = 0.95) -> Difference:
    r"""A t test of two groups of runs on the same images, in which runs and images are both random.

    The answer holds for further runs and further images. It is the analysis of studies in which several readers judge
    the same cases (Dorfman, Berbaum and Metz 1992), each reader under one treatment only (Hillis 2014). The variance of
    the difference of the mean accuracies is the sum of a part of the runs and a part of the images::

        V = max(W, E) + max(I - E, 0)
        W = s_a^2 / R_a + s_b^2 / R_b           s^2: variance of the runs' accuracies, as in Welch's test
        I = Var_i(mean_a x_i - mean_b x_i) / N  what the images alone would explain if the runs were fixed
        E = (e_a / R_a + e_b / R_b) / N         e: residual mean square of runs x images, part of both W and I

    and has ``V^2 / sum_g (s_g^2 / R_g)^2 / (R_g - 1)`` degrees of freedom (Satterthwaite, as Hillis 2007 takes it).

    Args:
        a, b: bool ``(R_a, N)`` and ``(R_b, N)``, which images each run classifies correctly, in the same order of
            images; two runs and two images or more.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: if the images differ in number, or there are too few runs or images.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]]).bool()
        >>> b = torch.tensor([[1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0]]).bool()
        >>> found = runs_and_images(a, b)
        >>> f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}] p = {found.p_value:.3f}"
        '0.444 [0.153, 0.736] p = 0.004'
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2:
        shapes = f"{tuple(a.shape)}, {tuple(b.shape)}"
        raise ValueError(f"a and b must be (runs, images) of the same 2 images or more, got {shapes}")
    _check_runs(len(a), len(b))
    groups = [x.double().numpy() for x in (a, b)]
    difference = float(groups[0].mean() - groups[1].mean())
    variance, freedom = _variance(groups, groups[0].mean(0) - groups[1].mean(0))
    if variance <= ROUNDING:  # every run of a group is right on the same images, and the groups are equal or opposite
        found = compare(a[0], b[0])
        return Difference(difference, found.low, found.high, found.p_value, MIXED)
    scale = sqrt(variance)
    half = float(student.ppf((1 + confidence) / 2, freedom)) * scale
    p_value = 2 * float(student.sf(abs(difference) / scale, freedom))
    return Difference(difference, max(-1.0, difference - half), min(1.0, difference + half), p_value, MIXED)


def _variance(groups: Sequence[np.ndarray], contrast: np.ndarray) -> tuple[float, float]:
    """``V`` of :func:`runs_and_images`, the variance of the mean of ``contrast`` ``(N,)``; its degrees of freedom."""
    images = len(contrast)
    runs = [float(np.var(x.mean(1), ddof=1)) / len(x) for x in groups]
    residual = sum(_residual(x) / len(x) for x in groups) / images
    fixed = float(np.var(contrast, ddof=1)) / images
    variance = max(sum(runs), residual) + max(fixed - residual, 0.0)
    return variance, _freedom(variance, runs, [len(x) for x in groups])


def _freedom(variance: float, runs: Sequence[float], counts: Sequence[int]) -> float:
    """Satterthwaite's degrees of freedom of ``variance``, of which the parts ``runs`` have ``counts - 1`` each."""
    shares = sum(part**2 / (count - 1) for part, count in zip(runs, counts, strict=True))
    return variance**2 / shares if shares else inf


def _residual(x: np.ndarray) -> float:
    """The mean square of what remains of ``(R, N)`` after the means of runs and images."""
    runs, images = x.shape
    rest = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
    return float((rest**2).sum()) / ((runs - 1) * (images - 1))


def _check_runs(a: int, b: int) -> None:
    if min(a, b) < 2:
        raise ValueError(f"a test over runs needs two runs or more in each group, got {a} and {b}")


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's method (1979), which bounds the chance of any false finding.

    The k-th smallest of m is multiplied by ``m - k + 1``; none becomes smaller than the one before, or larger than 1.

    Args:
        p_values: in [0, 1], in any order.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = least
    return corrected
