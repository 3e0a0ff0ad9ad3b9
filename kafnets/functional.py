"""The maths of the activations as pure functions: short, obvious, and the reference that everything fast is tested on.

They may materialise a dictionary axis (``D`` times the input's memory). Networks use :mod:`kafnets.ops` instead.
"""

import math

import torch
from torch import Tensor


def gaussian(x: Tensor, dictionary: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Gaussian kernel ``k(x, d_i) = exp(-bandwidth (x - d_i)^2)`` of every value with every dictionary point.

    Args:
        x: any shape, floating point.
        dictionary: ``(..., D)``; its leading dimensions broadcast with ``x``'s.
        bandwidth: gamma > 0, in 1 / (units of x)^2; a number or a tensor that broadcasts with ``x[..., None]``.

    Returns:
        ``(*x.shape, D)``, values in [0, 1].

    Example:
        >>> gaussian(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), math.log(2.0))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    return torch.exp(-bandwidth * (x.unsqueeze(-1) - dictionary) ** 2)


def kaf(x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Kernel activation function ``f_c(x) = sum_i alpha[c, i] exp(-bandwidth (x - d_i)^2)``.

    Scardapane, Van Vaerenbergh, Totaro, Uncini, "Kafnets: kernel-based non-parametric activation functions for neural
    networks", Neural Networks 110, 2019 (arXiv 1707.04035), section 3.

    Args:
        x: ``(N, C)`` or ``(N, C, *spatial)``, floating point.
        alpha: mixing coefficients ``(C, D)``.
        dictionary: ``(D,)``, or ``(C, D)`` where each channel has its own.
        bandwidth: gamma > 0; a number, ``()`` or ``(C,)``.

    Returns:
        The shape of ``x``.

    Example:
        >>> kaf(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0], [3.0]]), torch.tensor([0.0]), math.log(2.0))
        tensor([[2.0000, 1.5000]])
    """
    bandwidth = torch.as_tensor(bandwidth, dtype=alpha.dtype, device=x.device)
    if bandwidth.dim() == 1:
        bandwidth = bandwidth.unsqueeze(-1)
    channels_last = x.movedim(1, -1)
    kernel = gaussian(channels_last, dictionary, bandwidth)
    return (alpha * kernel).sum(-1).movedim(-1, 1)


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
    rows = x.flatten(1)
    smallest_kept = nan_to_inf(rows).topk(winner_count(ratio, rows.shape[1]), dim=1).values[:, -1:]
    return torch.where(rows < smallest_kept, 0, rows).reshape(x.shape)


def check_ratio(ratio: float) -> float:
    """Return ``ratio`` as a float, or say why it is no fraction of the values to keep.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio, the fraction of values kept, must be in (0, 1], got {ratio!r}; the default is 0.2")
    return float(ratio)


def winner_count(ratio: float, count: int) -> int:
    """``ceil(ratio * count)``, at least 1, with the product's rounding error forgiven.

    Example:
        >>> 0.07 * 100 > 7, winner_count(0.07, 100), winner_count(1e-9, 100)
        (True, 7, 1)
    """
    return max(1, math.ceil(ratio * count * (1 - 1e-12)))


def nan_to_inf(x: Tensor) -> Tensor:
    """``x`` with NaN replaced by infinity."""
    return x.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def ridge(dictionary: Tensor, bandwidth: float | Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Mixing coefficients with which a KAF takes given values on its dictionary.

    Kernel ridge regression ``alpha = (K + eps I)^-1 t`` with ``K_ij = exp(-bandwidth (d_i - d_j)^2)``, solved in
    float64 because ``K`` is close to singular. Scardapane et al. 2019 (arXiv 1707.04035), section 3.

    Args:
        dictionary: ``(..., D)``.
        bandwidth: gamma > 0; a number or ``(...)``.
        target: wanted values ``t`` at the dictionary points, broadcasting with ``(..., D)``.
        eps: ridge, > 0; larger gives smaller coefficients and a looser fit.

    Returns:
        ``(..., D)`` in the dtype of ``dictionary``.

    Raises:
        ValueError: if ``eps`` is not positive.

    Example:
        >>> points = torch.linspace(-3, 3, 20)
        >>> alpha = ridge(points, 1.67, points.relu())
        >>> fit = kaf(points.unsqueeze(1), alpha.unsqueeze(0), points, 1.67)
        >>> bool((fit.squeeze(1) - points.relu()).abs().max() < 1e-4)
        True
    """
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps!r}; the default is 1e-6")
    points = dictionary.double()
    gamma = torch.as_tensor(bandwidth, dtype=points.dtype, device=points.device)[..., None, None]
    kernel = torch.exp(-gamma * (points.unsqueeze(-1) - points.unsqueeze(-2)) ** 2)
    kernel = kernel + eps * torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
    values = target.double().expand(points.shape)
    return torch.linalg.solve(kernel, values.unsqueeze(-1)).squeeze(-1).to(dictionary.dtype)
