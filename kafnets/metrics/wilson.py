"""The confidence interval of an accuracy."""

from scipy.stats import binomtest


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); valid at 0, at 1 and for few images.

    With ``p = successes / total`` and ``z`` the normal quantile of ``(1 + confidence) / 2``:
    ``(p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``.

    Args:
        successes: number of successes, in [0, total].
        total: number of trials; 0 gives (0, 1).
        confidence: in (0, 1).

    Returns:
        Lower and upper bound, in [0, 1].

    Raises:
        ValueError: if ``successes`` lies outside [0, total] or ``confidence`` outside (0, 1).

    Example:
        >>> low, high = wilson_interval(400, 1000)
        >>> f"{low:.3f} {high:.3f}"
        '0.370 0.431'
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie in [0, {total}], got {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    if total == 0:
        return 0.0, 1.0
    interval = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
