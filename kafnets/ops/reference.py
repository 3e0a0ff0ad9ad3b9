"""The formulas of :mod:`kafnets.functional` as an engine, in operations that PyTorch can transform, record and export.

They hold tensors with a dictionary axis: ``D`` times the input's memory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kafnets import functional
from kafnets.ops.engine import Engine, Found, Wanted, arithmetic_dtype, slope_weights
from kafnets.ops.tiling import has_channels_last

# in units of x: further out a kernel counts as 0; the square is still finite in float32
FAR = 1e15


def kaf(
    x: Tensor,
    alpha: Tensor,
    dictionary: Tensor,
    bandwidth: Tensor,
    kernel: Callable[[Tensor, Tensor], Tensor] = functional.gaussian,
) -> Tensor:
    """:func:`kafnets.functional.kaf` with the dtype, layout and limits of :func:`kafnets.ops.kaf`.

    Example:
        >>> kaf(torch.tensor([[0.0], [torch.inf]]), torch.ones(1, 1), torch.zeros(1), torch.tensor(1.0)).T
        tensor([[1., 0.]])
    """
    dtype, far = arithmetic_dtype(x, dictionary), x.abs() > FAR
    alpha, dictionary, bandwidth = (t.to(dtype) for t in (alpha, dictionary, bandwidth))
    value = functional.kaf(x.to(dtype).masked_fill(far, 0), alpha, dictionary, bandwidth, kernel)
    return _like(x, value.masked_fill(far, 0))


def _like(x: Tensor, value: Tensor) -> Tensor:
    """In the dtype and memory format of x."""
    value = value.to(x.dtype)
    if not has_channels_last(x):
        return value.contiguous()
    return value.movedim(1, -1).contiguous().movedim(x.dim() - 1, 1)


def gradients(
    function: Callable[..., Any], inputs: Sequence[Tensor], cotangents: Any, wanted: Sequence[int]
) -> tuple[Tensor, ...]:
    """The vector-Jacobian product of a function for the inputs at ``wanted``, also inside a transform of torch.func.

    Example:
        >>> gradients(torch.mul, [torch.tensor(2.0), torch.tensor(3.0)], torch.tensor(1.0), [1])
        (tensor(2.),)
    """

    def of_wanted(*some: Tensor) -> Any:
        chosen = dict(zip(wanted, some, strict=True))
        return function(*[chosen.get(i, t) for i, t in enumerate(inputs)])

    return torch.func.vjp(of_wanted, *[inputs[i] for i in wanted])[1](cotangents)


class ReferenceSweep(Engine):
    """By broadcasting, in memory for ``D`` tensors like x."""

    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """See :meth:`kafnets.ops.engine.Engine.sweep`."""
        scale, basis = a if v is None else v if a is None else a * v, self._basis(x)
        value = slope = moments = None
        if weights is not None and want[0]:
            value = _weighted(x, a, weights, basis)
        if weights is not None and want[1]:
            slope = _weighted(x, scale, slope_weights(weights, self.bandwidth), basis)
        if want[2]:
            factor = 1 if scale is None else _columns(scale)
            moments = torch.stack([(factor * basis(p)).flatten(0, -3).sum(0) for p in range(powers)])
        return value, slope, moments

    def _basis(self, x: Tensor) -> Callable[[int], Tensor]:
        """``t_i^p k_i`` for a power p, ``(N, *spatial, C, D)``, in the dtype of the arithmetic."""
        dtype, far = arithmetic_dtype(x, self.dictionary), _columns(x).abs() > FAR
        t = _columns(x).to(dtype).masked_fill(far, 0) - self.dictionary.to(dtype)
        k = functional.gaussian(t, self.bandwidth.to(dtype).unsqueeze(-1)).masked_fill(far, 0)
        return lambda power: t**power * k


def _weighted(x: Tensor, factor: Tensor | None, weights: Tensor, basis: Callable[[int], Tensor]) -> Tensor:
    """``factor * S(x, W)``."""
    total = torch.stack([(row * basis(power)).sum(-1) for power, row in enumerate(weights.unbind())])
    value = total.sum(0).movedim(-1, 1)
    return _like(x, value if factor is None else factor * value)


def _columns(x: Tensor) -> Tensor:
    """``(N, C, *spatial)`` as ``(N, *spatial, C, 1)``."""
    return x.movedim(1, -1).unsqueeze(-1)
