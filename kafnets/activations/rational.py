"""Rational (Pade) activation units as a layer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import named, new, positive, sampled
from kafnets.activations.rational_bounds import RationalBounds
from kafnets.ops.recompute import lean

NUMERATOR, DENOMINATOR = 5, 4  # the degrees of the paper


class Rational(Activation):
    """``f(x) = sum_{k=0..5} a_k x^k / (1 + |sum_{k=1..4} b_k x^k|)``, a trained fraction of polynomials.

    Molina, Schramowski, Kersting, "Pade activation units: end-to-end learning of flexible activation functions in deep
    networks", ICLR 2020 (arXiv 1907.06732), eq. 2: the safe form, without poles. One set of ten numbers per layer, as
    in the paper. The degrees differ by one, so that far out f is a straight line of slope ``a_5 / |b_4|`` if b_4 is not
    0. Where the sum in the denominator changes its sign (always at 0 once ``b_1`` is not 0) the slope may jump.

    Args:
        num_channels: channels of the input.
        init: the elementwise function to start as, fitted by least squares on ``[-boundary, boundary]`` among the
            fractions with ``b_1 = b_3 = 0 <= b_2, b_4``, which are smooth. For the default, the paper's leaky ReLU of
            slope 0.01, the largest error is 0.04.
        boundary: half width of the range of the fit, from 1e-4 to 1e4, in units of x.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least. Parameters ``numerator``
        ``(6,)`` and ``denominator`` ``(4,)``, from the lowest power up. NaN gives NaN; infinite x counts as 1e30.

    Raises:
        ValueError: if ``boundary`` is out of its range, or ``init`` is not finite on the range.
        TypeError: if ``init`` is not callable.

    Example:
        >>> Rational(2)(torch.tensor([[-1.0, 2.0]])).detach().round(decimals=1)
        tensor([[-0., 2.]])
    """

    def __init__(
        self, num_channels: int, *, init: Callable[[Tensor], Tensor] = F.leaky_relu, boundary: float = 3.0
    ) -> None:
        super().__init__(num_channels)
        self.init, self.boundary = init, positive("boundary", boundary, 3.0, least=1e-4, most=1e4)
        with torch.device("cpu"):
            numerator, denominator = fit(init, self.boundary)
        self.numerator, self.denominator = nn.Parameter(new(numerator)), nn.Parameter(new(denominator))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return lean(_fraction, self.check(x), self.numerator, self.denominator)

    def bounds(self) -> RationalBounds:
        """Rigorous, by Taylor bounds on many small cells; within about 1 % for moderate coefficients."""
        a, b = (p.detach().double().cpu().tolist() for p in (self.numerator, self.denominator))
        return RationalBounds(a, b, self.num_channels)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, init={named(self.init)}, boundary={self.boundary:g}"


def _fraction(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Both polynomials by Horner's rule, divided by powers of ``max(1, |x|)``, so that nothing overflows.

    With ``s = max(1, |x|)``, ``p = x / s`` and ``q = 1 / s`` the term ``a_k x^k`` is ``s^5 a_k p^k q^(5 - k)``, and
    likewise below, so that ``f = s * above / below``. f does not depend on s, which therefore counts as a constant.
    """
    with torch.no_grad():
        scale = x.abs().clamp_min_(1)
        q = scale.reciprocal()
    p = x * q
    above = _homogeneous(numerator, p, q)
    below = (q * q).square() + (p * _homogeneous(denominator, p, q)).abs()
    return scale * above / below


def _homogeneous(coefficients: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """``sum_k c_k p^k q^(n - k)`` for k from 0 to n, by Horner's rule in p."""
    *lower, value = coefficients.unbind()
    power = q
    for coefficient in reversed(lower):
        value = value * p + coefficient * power
        power = power * q
    return value


def fit(target: Callable[[Tensor], Tensor], boundary: float) -> tuple[Tensor, Tensor]:
    """Coefficients ``(6,)`` and ``(4,)`` of a smooth fraction close to a function on ``[-boundary, boundary]``.

    Least squares of ``(P - f (1 + Q)) / D`` with D the denominator of the previous iteration (Sanathanan and Koerner,
    IEEE Transactions on Automatic Control 8, 1963), float64, with ``Q = b_2 x^2 + b_4 x^4`` and both ``b >= 0``: the
    best of the solutions with both, one or none of them. A straight line, whose denominator is arbitrary, gets ``b_4 =
    1`` in units of the boundary: without it, rounding errors would bend the line far from 0.
    """
    # in units of the boundary, where the powers of x have a common size
    t = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    values = sampled(target, boundary * t)
    exact = 1e-20 * values.square().sum().item()
    error, a = _straight(t, values)
    b = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    if not error <= exact:
        found = [_fit_with(t, values, even) for even in ([2, 4], [4], [2], [])]
        _, a, b = min((fitted for fitted in found if fitted[2].min() >= 0), key=lambda fitted: fitted[0])
    powers = torch.arange(NUMERATOR + 1)
    return a / boundary**powers, b / boundary ** powers[1 : DENOMINATOR + 1]


def _straight(t: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """The squared error and the numerator of the best ``(a + b t) (1 + t^4) / (1 + t^4)``."""
    line = t[:, None] ** torch.arange(2)
    found = torch.linalg.lstsq(line, values[:, None]).solution[:, 0]
    error = (line @ found - values).square().sum().item()
    a = torch.zeros(NUMERATOR + 1, dtype=torch.float64)
    a[:2] = a[DENOMINATOR:] = found
    return error, a


def _fit_with(t: Tensor, values: Tensor, even: list[int]) -> tuple[float, Tensor, Tensor]:
    """The squared error and the coefficients with the given powers in the denominator."""
    above = t[:, None] ** torch.arange(NUMERATOR + 1)
    below = t[:, None] ** torch.tensor(even, dtype=torch.int64)
    size = torch.ones_like(t)
    for _ in range(20):
        weighted = torch.cat([above, -values[:, None] * below], 1) / size[:, None]
        found = torch.linalg.lstsq(weighted, (values / size)[:, None]).solution[:, 0]
        a, some = found[: NUMERATOR + 1], found[NUMERATOR + 1 :]
        size = 1 + (below @ some).clamp_min(0)
    error = (above @ a / size - values).square().sum().item()
    b = torch.zeros(DENOMINATOR, dtype=torch.float64)
    b[torch.tensor(even, dtype=torch.int64) - 1] = some
    return error, a, b
