"""Two networks, or two attacks, compared on the same images."""

from dataclasses import dataclass

from scipy.stats import binomtest, norm
from torch import Tensor


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947; exact form: Fay 2010).

    If two are equally good, each is the right one with probability 1/2 on the images where exactly one is right:
    ``p = min(1, 2 P(X >= max(only_a, only_b)))``, ``X ~ Binomial(only_a + only_b, 1/2)``.

    Args:
        only_a, only_b: number of images on which the first, or the second, alone is right; >= 0.

    Raises:
        ValueError: if a count is negative.

    Example:
        >>> round(mcnemar(9, 1), 4)
        0.0215
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts must be >= 0, got {only_a} and {only_b}")
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


@dataclass(frozen=True)
class Comparison:
    """The accuracies of two on the same images, as shares in [0, 1].

    Attributes:
        images: number of images.
        a, b: accuracy of each.
        only_a, only_b: number of images on which it alone is right.
        difference: ``a - b``.
        low, high: 95 % interval of the difference.
        p_value: McNemar's exact test of the hypothesis that both are equally good.
    """

    images: int
    a: float
    b: float
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"{100 * self.a:.1f} % against {100 * self.b:.1f} % on the same {self.images} images: difference "
            f"{100 * self.difference:+.1f} points, 95 % [{100 * self.low:+.1f}, {100 * self.high:+.1f}]; right alone "
            f"{self.only_a} and {self.only_b}, McNemar exact p = {self.p_value:.2g}"
        )


def compare(a: Tensor, b: Tensor, *, confidence: float = 0.95) -> Comparison:
    """Compare two networks or attacks on the same images.

    The interval of the difference is Bonett and Price's (2012, adjusted Wald for paired proportions): with
    ``p = (only_a + 1) / (n + 2)``, ``q = (only_b + 1) / (n + 2)``, it is
    ``p - q -+ z sqrt((p + q - (p - q)^2) / (n + 2))``.

    Args:
        a, b: bool ``(N,)``, whether the first and the second are right, in the same order of images; N >= 1.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: if the shapes differ, there is no image, or ``confidence`` lies outside (0, 1).

    Example:
        >>> import torch
        >>> a, b = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool()
        >>> result = compare(a, b)
        >>> result.difference, result.only_a, result.only_b, result.p_value
        (0.5, 2, 0, 0.5)
    """
    if a.dim() != 1 or a.shape != b.shape or not len(a):
        shapes = f"{tuple(a.shape)}, {tuple(b.shape)}"
        raise ValueError(f"a and b must have one value per image, (N,) with N >= 1, got {shapes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    a, b, n = a.bool(), b.bool(), len(a)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = float(norm.ppf((1 + confidence) / 2)) * ((p + q - (p - q) ** 2) / (n + 2)) ** 0.5
    return Comparison(
        images=n,
        a=int(a.sum()) / n,
        b=int(b.sum()) / n,
        only_a=only_a,
        only_b=only_b,
        difference=(only_a - only_b) / n,
        low=max(-1.0, p - q - half),
        high=min(1.0, p - q + half),
        p_value=mcnemar(only_a, only_b),
    )
