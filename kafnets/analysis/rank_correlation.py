"""Rank correlation of two figures over a few networks, with an interval and an exact or simulated test."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import atanh, factorial, sqrt, tanh

import numpy as np
from scipy.stats import norm, rankdata

FEWEST = 5  # pairs: with four, the smallest possible p-value of the test is 0.08
ENUMERATED = 8  # pairs up to which the test goes through all orders, 40,320 of them
SIMULATED = 20_000  # random orders for more pairs


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation.

    Attributes:
        rho: from -1 to 1.
        low, high: approximate 95 % interval: Fisher's z with the variance ``(1 + rho^2 / 2) / (n - 3)`` of Bonett and
            Wright (2000). At rho = 1 and -1, where z is infinite, one end is that of the next smaller ``|rho|``.
        p_value: two-sided, by permutation: the share of orders whose ``|rho|`` is as large. Exact for up to 8 pairs.
        pairs: their number n.
    """

    rho: float
    low: float
    high: float
    p_value: float
    pairs: int


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation | None:
    """Spearman's rank correlation of paired values; ties share their mean rank, and infinite values are largest.

    Args:
        first, second: of equal length n.

    Returns:
        None if there are fewer than 5 pairs, or one side has a single value only: nothing can be ranked.

    Raises:
        ValueError: if the lengths differ, or a value is NaN.

    Example:
        >>> found = rank_correlation([1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.5, 0.4])
        >>> f"{found.rho:.2f} [{found.low:.2f}, {found.high:.2f}], p = {found.p_value:.3f}"
        '0.90 [-0.17, 1.00], p = 0.083'
    """
    if len(first) != len(second):
        raise ValueError(f"values must be paired, got {len(first)} and {len(second)}")
    if np.isnan([*first, *second]).any():
        raise ValueError("values must not be NaN: leave the pair out")
    if len(first) < FEWEST or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    a, b = (_standardised(values) for values in (first, second))
    rho = float(np.clip(a @ b, -1, 1))
    low, high = _interval(rho, len(first))
    return RankCorrelation(rho, low, high, _p_value(a, b, abs(rho)), len(first))


def _interval(rho: float, pairs: int) -> tuple[float, float]:
    next_to_one = 1 - 12 / (pairs * (pairs**2 - 1))  # two neighbouring ranks exchanged
    inner = max(-next_to_one, min(next_to_one, rho))
    reach = float(norm.ppf(0.975)) * sqrt((1 + inner**2 / 2) / (pairs - 3))
    return min(rho, tanh(atanh(inner) - reach)), max(rho, tanh(atanh(inner) + reach))


def _standardised(values: Sequence[float]) -> np.ndarray:
    ranks = rankdata(values) - (len(values) + 1) / 2
    return ranks / np.linalg.norm(ranks)


def _p_value(a: np.ndarray, b: np.ndarray, reached: float) -> float:
    if len(a) <= ENUMERATED:
        orders = np.array(list(permutations(range(len(b)))))
        assert len(orders) == factorial(len(b))
        return float((np.abs(b[orders] @ a) >= reached - 1e-9).mean())
    random = np.random.default_rng(0)
    orders = np.argsort(random.random((SIMULATED, len(b))), axis=1)
    # the order found counts as one of the simulated, so that the p-value is never 0
    return float(((np.abs(b[orders] @ a) >= reached - 1e-9).sum() + 1) / (SIMULATED + 1))
