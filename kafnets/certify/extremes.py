"""Where an activation may have its largest and smallest values on an interval."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kafnets.activations import (
    ELU,
    GELU,
    KAF,
    Activation,
    Identity,
    MultiKAF,
    ReLU,
    ResidualKAF,
    SiLU,
    SlopeBoundedKAF,
    Softplus,
)
from kafnets.activations.derivative_bounds import PiecewiseLinear
from kafnets.activations.kernel_activation import KernelActivation
from kafnets.activations.kernel_bounds import Part
from kafnets.activations.pointwise import per_channel

CELLS = 1 << 12  # of the certain grid
COARSE = 256  # of the grid of training
REACH = 8.0  # half width of the grid of activations that are no sums over kernels, in units of x
NEGLIGIBLE = 1e-8  # size of a sum over kernels at the ends of its grid, relative to the sum of absolute coefficients
WIDENINGS = 4  # of a grid whose ends are not negligible, each by half of its reach
ROUNDING = 1e-10  # error of an activation in float64, relative to the largest value that matters

KERNEL_SUMS = (KAF, SlopeBoundedKAF, MultiKAF)
MONOTONE = (ReLU, ELU, Softplus, Identity)
TURNS = {SiLU: -1.2784645427610738, GELU: -0.7517915246935645}  # the only zeros of f', to 16 digits


@dataclass(frozen=True)
class Extremes:
    """Points of f_c such that on any interval [l, u] f_c is at most ``max(f(l), f(u), f(points within)) + excess``.

    The same holds for the minimum. The excess is ``inside`` within ``[low, high]``; of an interval of which a length t
    lies outside, it is at most ``max(inside, outside + rate t / 2)``.

    Attributes:
        points: ``(C, P)``; infinite where a channel has fewer.
        values: ``(C, P)``, f_c there; with the graph to the parameters of f.
        low, high: the ends of the grid on which the points were found; infinite if they are exact.
        inside, outside, rate: ``(C,)``.
    """

    points: Tensor
    values: Tensor
    low: float = -torch.inf
    high: float = torch.inf
    inside: Tensor | float = 0.0
    outside: Tensor | float = 0.0
    rate: Tensor | float = 0.0

    def range(self, activation: Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the values of an activation on boxes, each ``(N, C, *spatial)``."""
        ends = activation.forward(low), activation.forward(high)
        least, most = torch.minimum(*ends), torch.maximum(*ends)
        for point, value in zip(self.points.T, self.values.T, strict=True):
            at, height = per_channel(point, low), per_channel(value, low)
            within = (low < at) & (at < high)
            most = torch.where(within & (height > most), height, most)
            least = torch.where(within & (height < least), height, least)
        excess = self._excess(low, high)
        return least - excess, most + excess

    def _excess(self, low: Tensor, high: Tensor) -> Tensor | float:
        inside = _wide(self.inside, low)
        if self.low == -torch.inf:
            return inside
        beyond = (self.low - low).clamp_min(0) - (self.low - high).clamp_min(0)
        beyond = beyond + (high - self.high).clamp_min(0) - (low - self.high).clamp_min(0)
        outside = _wide(self.outside, low) + _wide(self.rate, low) * beyond / 2
        return torch.where(beyond > 0, torch.maximum(torch.as_tensor(inside), torch.as_tensor(outside)), inside)


def _wide(values: Tensor | float, like: Tensor) -> Tensor | float:
    return per_channel(values, like) if isinstance(values, Tensor) else values


def extremes_of(activation: Activation, like: Tensor, *, certain: bool) -> Extremes:
    """The extremes of a pointwise activation at its present parameters.

    Exact for functions that are monotone, made of straight pieces, or turn once. Others, KAFs among them, are evaluated
    on a fine grid. In a cell of width w, f exceeds the larger of its values at the ends by at most ``sup|f''| w^2 / 8``
    and ``sup|f'| w / 2``, with the bounds of :meth:`~kafnets.activations.Activation.curvature` and ``lipschitz``; the
    points are the local extremes of the values on the grid, whose neighbours may be left out at the price of the same
    excess once more.

    Args:
        activation: the activation, its parameters in the dtype and on the device of ``like``.
        like: a tensor in the dtype and on the device of the boxes; float64 for a sound bound.
        certain: True for a sound bound; False for a coarser grid without its excess, to train with.

    Raises:
        ValueError: if the activation is not pointwise, or its slope has no bound.
    """
    with _bounded(activation, "range"):
        return _extremes(activation, like, certain=certain)


def _extremes(activation: Activation, like: Tensor, *, certain: bool) -> Extremes:
    kind = type(activation)
    if kind in MONOTONE:
        return _exact(activation, like.new_zeros(activation.num_channels, 0))
    if kind in TURNS:
        return _exact(activation, like.new_full((activation.num_channels, 1), TURNS[kind]))
    if not activation.pointwise:
        raise ValueError(
            f"no range of {activation.label} is known: each of its outputs depends on many inputs; take a pointwise "
            "activation, or KWTA"
        )
    bounds = None if isinstance(activation, ResidualKAF) else activation.bounds()
    if isinstance(bounds, PiecewiseLinear):
        return _exact(activation, bounds.knots.to(like))
    return _on_grid(activation, like, certain=certain)


def slopes_on_grid(activation: Activation, like: Tensor) -> Tensor:
    """The largest ``|f_c'|`` on a coarse grid, ``(C,)``, with a graph to the parameters: to train with, no bound."""
    if not activation.pointwise:
        raise ValueError(f"no slope of {activation.label} is known; take a pointwise activation")
    if type(activation) in MONOTONE and not any(True for _ in activation.parameters()):
        return activation.lipschitz().to(like)
    with _bounded(activation, "slope"):
        reach = _reach(activation)[0] if _kernels(activation) else REACH
    grid = torch.linspace(-reach, reach, COARSE + 1, dtype=like.dtype, device=like.device)
    points = grid[:, None].repeat(1, activation.num_channels).requires_grad_()
    with torch.enable_grad():
        values = activation.forward(points)
        (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    return slopes.abs().amax(0)


@contextmanager
def _bounded(activation: Activation, what: str) -> Iterator[None]:
    """Name the activation if it, its base or its kernel does not bound its derivatives."""
    try:
        yield
    except NotImplementedError as error:
        raise ValueError(f"no {what} of {activation.label} is known: {error}") from None


def _exact(activation: Activation, points: Tensor) -> Extremes:
    if not points.shape[1]:
        return Extremes(points, points)
    finite = points.nan_to_num(posinf=0.0, neginf=0.0)
    return Extremes(points, activation.forward(finite.T).T)


def _kernels(activation: Activation) -> KernelActivation | None:
    """The sum over kernels whose tails bound an activation far from 0; None if it has none, or may add more to it."""
    residual = type(activation) is ResidualKAF
    found = activation.kaf if residual else activation
    if type(found) not in (KAF, SlopeBoundedKAF, MultiKAF) or (
        residual and type(activation.base) not in (*MONOTONE, *TURNS)
    ):
        return None
    assert isinstance(found, KernelActivation)
    return found if all(part.kernel.period == torch.inf for part in found.parts()) else None


def _height(part: Part, distance: float) -> float:
    """The value of a kernel at a distance from its centre."""
    bandwidth = part.bandwidth.double().cpu()
    return float(part.kernel(torch.tensor(distance, dtype=torch.float64), bandwidth).abs())


@torch.no_grad()
def _reach(activation: Activation) -> tuple[float, Tensor]:
    """Half the width of the grid of a sum over kernels, and an upper bound of the size of the sum beyond, ``(C,)``."""
    kernels = _kernels(activation)
    assert kernels is not None
    base = activation.base if isinstance(activation, ResidualKAF) else activation
    parts = [part for whole in kernels.parts() for part in whole.sets()]
    if not all(float(part.bandwidth) > 0 for part in parts):
        raise ValueError(f"no range of {activation.label} is known: a bandwidth is not > 0, so a kernel may not fall")
    farthest = max(float(part.dictionary.abs().max()) for part in parts)
    # beyond `falling` a kernel falls; its own length is 1 / sqrt(2 bandwidth)
    reach = max(max(p.kernel.shape(float(p.bandwidth)).falling, (2 * float(p.bandwidth)) ** -0.5) for p in parts)
    for _ in range(WIDENINGS):
        if max(_height(part, reach) for part in parts) < NEGLIGIBLE:
            break
        reach *= 1.5
    beyond = torch.zeros(kernels.groups, dtype=torch.float64)
    for whole in kernels.parts():
        beyond += torch.cat([part.alpha.abs().sum(1) * _height(part, reach) for part in whole.sets()])
    # beyond the grid, what is added to the sum must not turn
    return max(farthest + reach, -TURNS.get(type(base), 0.0)), kernels.unshared(beyond)


def _on_grid(activation: Activation, like: Tensor, *, certain: bool) -> Extremes:
    kernels = _kernels(activation)
    reach, tails = _reach(activation) if kernels else (REACH, torch.zeros(activation.num_channels))
    cells = CELLS if certain else COARSE
    grid = torch.linspace(-reach, reach, cells + 1, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        values = activation.forward(grid[:, None].expand(-1, activation.num_channels).contiguous())
    points = _local_extremes(grid, values)
    with torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad():
        found = _exact(activation, points)
    if not certain:
        return found
    slope, bend = activation.lipschitz(), activation.curvature((-reach, reach))
    if not slope.isfinite().all():
        raise ValueError(f"no range of {activation.label} is known: its slope has no bound at its present parameters")
    width = 2 * reach / cells
    inside = 2 * torch.minimum(bend * width**2 / 8, slope * width / 2) + ROUNDING * (1 + values.abs().amax(0).cpu())
    outside, rate = (2 * tails, torch.zeros_like(slope)) if kernels else (torch.zeros_like(slope), slope)
    inside, outside, rate = (t.to(like) for t in (inside, outside + inside, rate))
    return Extremes(found.points, found.values, -reach, reach, inside, outside, rate)


def _local_extremes(grid: Tensor, values: Tensor) -> Tensor:
    """The grid points ``(C, P)`` where the values ``(M, C)`` turn, and both ends; infinite where there are fewer."""
    rise = values.diff(dim=0).sign()
    turns = torch.ones_like(values, dtype=torch.bool)
    turns[1:-1] = rise[1:] != rise[:-1]
    most = int(turns.sum(0).max())
    # sorting puts the turning points of each channel first
    return torch.where(turns, grid[:, None], torch.inf).sort(0).values[:most].T.contiguous()
