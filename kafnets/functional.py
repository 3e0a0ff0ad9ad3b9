"""The maths of the activations as pure functions: short, and the reference that every fast path is tested against.

They may materialise a dictionary axis (``D`` times the input's memory). Networks use :mod:`kafnets.ops` instead.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(t: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Gaussian kernel ``exp(-bandwidth t^2)`` of distances ``t = x - d``. Rasmussen and Williams 2006, eq. 4.9.

    Every kernel here takes distances of any shape, in units of x, and ``bandwidth`` gamma > 0 in 1 / (units of x)^2
    that broadcasts with them. It stands for the length ``l = 1 / sqrt(2 gamma)``, in units of x, of Rasmussen and
    Williams, "Gaussian processes for machine learning", 2006, chapter 4. All are 1 at ``t = 0``.

    Example:
        >>> gaussian(torch.tensor([0.0, 1.0]), math.log(2.0))
        tensor([1.0000, 0.5000])
    """
    return torch.exp(-bandwidth * t**2)


def laplacian(t: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Laplacian kernel ``exp(-|t| / l)``. Rasmussen and Williams, eq. 4.18 with exponent 1.

    The derivative at the kink is the mean of both sides, 0.

    Example:
        >>> laplacian(torch.tensor([0.0, math.log(2.0)]), 0.5)
        tensor([1.0000, 0.5000])
    """
    return torch.exp(-_in_lengths(t, bandwidth).abs())


def matern32(t: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Matern kernel of smoothness 3/2: ``(1 + r) exp(-r)``, ``r = sqrt(3) |t| / l``. Rasmussen and Williams, eq. 4.17.

    Example:
        >>> matern32(torch.tensor([0.0, 1.0]), 1 / 6)
        tensor([1.0000, 0.7358])
    """
    r = _size(_in_lengths(t, 3 * bandwidth))
    return (1 + r) * torch.exp(-r)


def matern52(t: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Matern kernel of smoothness 5/2: ``(1 + r + r^2 / 3) exp(-r)``, ``r = sqrt(5) |t| / l``. As above, eq. 4.17.

    Example:
        >>> matern52(torch.tensor([0.0, 1.0]), 1 / 10)
        tensor([1.0000, 0.8584])
    """
    r = _size(_in_lengths(t, 5 * bandwidth))
    return (1 + r + r**2 / 3) * torch.exp(-r)


def rational_quadratic(t: Tensor, bandwidth: float | Tensor, mixture: float = 1.0) -> Tensor:
    """Rational quadratic kernel ``(1 + bandwidth t^2 / mixture)^(-mixture)``. Rasmussen and Williams, eq. 4.19.

    A mixture of Gaussians of many bandwidths: the Gaussian at ``mixture`` = infinity, heavier tails below.

    Example:
        >>> rational_quadratic(torch.tensor([0.0, 1.0]), 1.0)
        tensor([1.0000, 0.5000])
    """
    return (1 + _in_lengths(t, bandwidth) ** 2 / (2 * mixture)) ** -mixture


def periodic(t: Tensor, bandwidth: float | Tensor, period: float = 2 * math.pi) -> Tensor:
    """Periodic kernel ``exp(-bandwidth (period / pi)^2 sin^2(pi t / period))``. MacKay 1998; R. and W., eq. 4.31.

    The Gaussian of the chord on a circle of circumference ``period``, in units of x, and the plain Gaussian to second
    order at 0. MacKay, "Introduction to Gaussian processes", 1998, section 5.

    Example:
        >>> periodic(torch.tensor([0.0, math.pi, 2 * math.pi]), math.log(2.0) / 4)
        tensor([1.0000, 0.5000, 1.0000])
    """
    return torch.exp(-bandwidth * (period / math.pi * torch.sin(math.pi / period * t)) ** 2)


def triangular(t: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Triangular kernel ``max(0, 1 - |t| / l)``, the linear B-spline with knots ``-l, 0, l``. R. and W., eq. 4.21.

    The derivative at a knot is the mean of both sides.

    Example:
        >>> triangular(torch.tensor([0.0, 0.5, 2.0]), 0.5)
        tensor([1.0000, 0.5000, 0.0000])
    """
    height = 1 - _in_lengths(t, bandwidth).abs()
    return (height + height.abs()) / 2


def _in_lengths(t: Tensor, bandwidth: float | Tensor) -> Tensor:
    """``t / l``."""
    return t * (2 * bandwidth) ** 0.5


def _size(u: Tensor) -> Tensor:
    """``|u|`` with slope -1 at 0; torch.abs has slope 0 there, which would lose the curvature of a Matern kernel."""
    return F.leaky_relu(u, -1.0)


def kaf(
    x: Tensor,
    alpha: Tensor,
    dictionary: Tensor,
    bandwidth: float | Tensor,
    kernel: Callable[[Tensor, Tensor], Tensor] = gaussian,
) -> Tensor:
    """Kernel activation function ``f_c(x) = sum_i alpha[c, i] k(x - d_i)``, ``k(t) = exp(-bandwidth t^2)`` by default.

    Scardapane, Van Vaerenbergh, Totaro, Uncini, "Kafnets: kernel-based non-parametric activation functions for neural
    networks", Neural Networks 110, 2019 (arXiv 1707.04035), section 3.

    Args:
        x: ``(N, C)`` or ``(N, C, *spatial)``, floating point.
        alpha: mixing coefficients ``(C, D)``.
        dictionary: ``(D,)``, or ``(C, D)`` where each channel has its own.
        bandwidth: gamma > 0; a number, ``()`` or ``(C,)``.
        kernel: ``k(t, bandwidth)``, elementwise.

    Returns:
        The shape of ``x``.

    Example:
        >>> kaf(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0], [3.0]]), torch.tensor([0.0]), math.log(2.0))
        tensor([[2.0000, 1.5000]])
    """
    # not torch.as_tensor, whose result torch.jit.trace stores as a constant
    bandwidth = bandwidth.to(alpha) if isinstance(bandwidth, Tensor) else alpha.new_tensor(bandwidth)
    if bandwidth.dim() == 1:
        bandwidth = bandwidth.unsqueeze(-1)
    distances = x.movedim(1, -1).unsqueeze(-1) - dictionary
    # not movedim(-1, 1), which the ONNX exporter of torch.jit.trace gets wrong
    return (alpha * kernel(distances, bandwidth)).sum(-1).movedim(x.dim() - 1, 1)


def kwta(x: Tensor, ratio: float) -> Tensor:
    """k-winners-take-all: per sample, keep the k largest values and set the rest to zero.

    ``k = ceil(ratio * M)`` with ``M`` the number of values in a sample (all channels and positions together). Values
    equal to the k-th largest are all kept, so ties can keep more than k. NaN counts as infinite.

    Xiao, Zhong, Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020 (arXiv 1905.10510), eq. 3.

    Args:
        x: ``(N, ...)``, floating point.
        ratio: the fraction kept, in (0, 1].

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1].

    Example:
        >>> kwta(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), 0.5)
        tensor([[3., 0., 2., 0.]])
    """
    check_ratio(ratio)
    if x.numel() == 0:
        return x
    rows = nan_to_inf(x.flatten(1))
    smallest_kept = rows.topk(winner_count(ratio, rows.shape[1]), dim=1).values[:, -1]
    return torch.where(x < smallest_kept.reshape(-1, *[1] * (x.dim() - 1)), 0, x)


def check_ratio(ratio: float) -> float:
    """Return ``ratio`` as a float, if it is a valid fraction of values to keep.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio, the fraction of values kept, must be in (0, 1], got {ratio!r}; the default is 0.2")
    return float(ratio)


def winner_count(ratio: float, count: int) -> int:
    """``ceil(ratio * count)``, at least 1; the rounding error of the product is ignored.

    Example:
        >>> 0.07 * 100 > 7, winner_count(0.07, 100), winner_count(1e-9, 100)
        (True, 7, 1)
    """
    return max(1, math.ceil(ratio * count * (1 - 1e-12)))


def nan_to_inf(x: Tensor) -> Tensor:
    """``x`` with NaN replaced by infinity."""
    return x.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def ridge(
    dictionary: Tensor,
    bandwidth: float | Tensor,
    target: Tensor,
    eps: float = 1e-6,
    kernel: Callable[[Tensor, Tensor], Tensor] = gaussian,
) -> Tensor:
    """Mixing coefficients with which a KAF takes given values on its dictionary.

    Kernel ridge regression ``alpha = (K + eps I)^-1 t`` with ``K_ij = k(d_i - d_j)``, solved in float64 because ``K``
    is close to singular. Scardapane et al. 2019 (arXiv 1707.04035), section 3.

    Args:
        dictionary: ``(..., D)``.
        bandwidth: gamma > 0; a number or ``(...)``.
        target: the values ``t`` to take at the dictionary points, broadcasting with ``(..., D)``.
        eps: ridge, > 0; larger gives smaller coefficients and a looser fit.
        kernel: ``k(t, bandwidth)``, elementwise.

    Returns:
        ``(..., D)`` in the dtype of ``dictionary``.

    Raises:
        ValueError: if ``eps`` is not positive and finite.

    Example:
        >>> points = torch.linspace(-3, 3, 20)
        >>> alpha = ridge(points, 1.67, points.relu())
        >>> fit = kaf(points.unsqueeze(1), alpha.unsqueeze(0), points, 1.67)
        >>> bool((fit.squeeze(1) - points.relu()).abs().max() < 1e-4)
        True
    """
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be > 0 and finite, got {eps!r}; the default is 1e-6")
    points = dictionary.double()
    gamma = torch.as_tensor(bandwidth, dtype=points.dtype, device=points.device)[..., None, None]
    gram = kernel(points.unsqueeze(-1) - points.unsqueeze(-2), gamma)
    gram = gram + eps * torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
    values = target.double().expand(points.shape)
    return torch.linalg.solve(gram, values.unsqueeze(-1)).squeeze(-1).to(dictionary.dtype)
