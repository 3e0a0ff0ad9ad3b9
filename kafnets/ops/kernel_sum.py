"""Sums over any kernel with little memory: a backward pass computes small tiles again instead of saving them."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from kafnets.ops import reference
from kafnets.ops.dispatch import is_looked_into, must_be_plain
from kafnets.ops.engine import arithmetic_dtype
from kafnets.ops.needs_grad import will_run
from kafnets.ops.reference import FAR
from kafnets.ops.tiling import ChannelRows, empty_dense, has_channels_last

# values of one tile, dictionary axis included: they stay in a processor's cache, and fill a GPU
CPU_TILE = 1 << 17
GPU_TILE = 1 << 24

Tile = tuple[slice, slice, slice]


def terms(
    x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``f_c(x) = sum_i alpha[c, i] k(x - d_ci; bandwidth_c)`` for any kernel, as :func:`kafnets.functional.kaf`.

    Never holds a ``[..., D]`` tensor and saves only ``x`` and the small tensors: values and derivatives are computed
    tile by tile, and a backward pass evaluates the kernel again. Differentiable with respect to ``x``, ``alpha``,
    ``dictionary`` and ``bandwidth`` as many times as ``kernel`` is. Where ``|x| > 1e15``, infinity included, value and
    gradients are 0, also for a kernel that does not fall to 0. NaN gives NaN.

    Args:
        x: ``(N, C)`` or ``(N, C, *spatial)``, any floating dtype and memory layout. Arithmetic is in float32 at least.
        alpha: ``(C, D)``.
        dictionary: ``(D,)``, or ``(C, D)`` where each channel has its own.
        bandwidth: gamma > 0, ``()`` or ``(C,)``, in 1 / (units of x)^2.
        kernel: ``k(t, bandwidth)``, elementwise on tensors that broadcast, in differentiable operations.

    Returns:
        The shape, dtype and (channels_last or contiguous) layout of ``x``.

    Example:
        >>> from kafnets.functional import laplacian
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> terms(x, torch.tensor([[2.0, 1.0]]), torch.tensor([0.0, 1.0]), torch.tensor(0.5), laplacian)
        tensor([[2.3679],
                [1.7358]])
    """
    if must_be_plain():
        return reference.kaf(x, alpha, dictionary, bandwidth, kernel)
    return _tiled(x, alpha, dictionary, bandwidth, kernel)


@torch.compiler.disable  # the tiles' own autograd can't be traced; a compiled network breaks its graph here
def _tiled(
    x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    points, gamma = dictionary.reshape(-1, dictionary.shape[-1]), bandwidth.reshape(-1, 1)
    (value,) = Tiled.apply(Fold(_TiledKernelSum(kernel), (True, False, False, False), (0,)), x, alpha, points, gamma)
    return value


@dataclass(frozen=True)
class _TiledKernelSum:
    """The formula on one tile: from x ``(c, n)``, alpha and d ``(c or 1, D)``, gamma ``(c or 1, 1)`` to ``(c, n)``."""

    kernel: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor) -> tuple[Tensor]:
        far = x.abs() > FAR
        t = x.masked_fill(far, 0).unsqueeze(1) - dictionary.unsqueeze(2)
        values = self.kernel(t, bandwidth.unsqueeze(2))
        return (torch.bmm(alpha.unsqueeze(1), values).squeeze(1).masked_fill(far, 0),)


@dataclass(frozen=True)
class _Gradients:
    """The vector-Jacobian product of ``function``, from its inputs and cotangents to gradients of ``wanted`` inputs."""

    function: Callable[..., tuple[Tensor, ...]]
    num_inputs: int
    wanted: tuple[int, ...]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if is_looked_into():
            given, cotangents = tensors[: self.num_inputs], tensors[self.num_inputs :]
            return reference.gradients(self.function, given, cotangents, self.wanted)
        inner = torch.is_grad_enabled()  # inside a product of higher order, which differentiates this one
        inputs = [t if inner and t.requires_grad else t.detach().requires_grad_() for t in tensors[: self.num_inputs]]
        wanted = [inputs[i] for i in self.wanted]
        with torch.enable_grad():
            outputs, cotangents = self.function(*inputs), tensors[self.num_inputs :]
            return torch.autograd.grad(outputs, wanted, cotangents, create_graph=inner, materialize_grads=True)


@dataclass(frozen=True)
class Fold:
    """Applies a function of tiles to whole tensors.

    Wide tensors have the shape of x and are cut into tiles; small ones have one row per channel, or one for
    all. Wide outputs are put together again, small ones are summed over the tiles. The derivative is a fold too.

    Attributes:
        function: from tiles of all inputs to a tuple of tiles or rows.
        wide: for every input, whether it is wide. The first one is.
        like: for every output, the input whose shape and dtype it has.
    """

    function: Callable[..., tuple[Tensor, ...]]
    wide: tuple[bool, ...]
    like: tuple[int, ...]

    def derivative(self, wanted: tuple[int, ...]) -> "Fold":
        """The fold from all inputs and the outputs' cotangents to the gradients of the wanted inputs."""
        cotangents = tuple(self.wide[i] for i in self.like)
        return Fold(_Gradients(self.function, len(self.wide), wanted), self.wide + cotangents, wanted)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs, without gradients."""
        x, dtype, order = tensors[0], arithmetic_dtype(*tensors), has_channels_last(tensors[0])
        inputs = [
            ChannelRows(t, channels_last=order) if w else t.to(dtype) for t, w in zip(tensors, self.wide, strict=True)
        ]
        found = [
            empty_dense(x, tensors[i].dtype) if self.wide[i] else torch.zeros_like(tensors[i], dtype=dtype)
            for i in self.like
        ]
        targets = [
            ChannelRows(t, channels_last=order) if self.wide[i] else t for t, i in zip(found, self.like, strict=True)
        ]
        for tile in _tiles(inputs[0].data.shape, tensors[1].shape[1], x.device):
            values = self.function(*[_read(source, tile, dtype) for source in inputs])
            for target, value in zip(targets, values, strict=True):
                _add(target, tile, value)
        return tuple(t.to(tensors[i].dtype) for t, i in zip(found, self.like, strict=True))

    def at_once(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The same in a single tile, by operations that PyTorch can differentiate and transform."""
        n, c, *spatial = tensors[0].shape
        dtype = arithmetic_dtype(*tensors)
        inputs = [t.transpose(0, 1).flatten(1) if w else t for t, w in zip(tensors, self.wide, strict=True)]
        found = self.function(*[t.to(dtype) for t in inputs])
        whole = [
            t.reshape(c, n, *spatial).transpose(0, 1) if self.wide[i] else t
            for t, i in zip(found, self.like, strict=True)
        ]
        return tuple(t.to(tensors[i].dtype) for t, i in zip(whole, self.like, strict=True))


class Tiled(torch.autograd.Function):
    """Applies a :class:`Fold` and saves nothing but its inputs; its backward applies a Fold again."""

    @staticmethod
    def forward(ctx: Any, fold: Fold, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute and keep what backward needs."""
        ctx.save_for_backward(*tensors)
        ctx.fold = fold
        with nullcontext() if tensors[0].is_meta else torch.autocast(tensors[0].device.type, enabled=False):
            return fold(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that this pass needs, tile by tile."""
        inputs = zip(ctx.needs_input_grad[1:], ctx.next_functions, strict=True)
        wanted = tuple(i for i, (need, (node, _)) in enumerate(inputs) if need and will_run(node))
        if not wanted:
            return (None,) * len(ctx.needs_input_grad)
        tensors, fold = (*ctx.saved_tensors, *cotangents), ctx.fold.derivative(wanted)
        found = fold.at_once(*tensors) if is_looked_into() else Tiled.apply(fold, *tensors)
        grads = dict(zip(wanted, found, strict=True))
        return None, *(grads.get(i) for i in range(len(ctx.saved_tensors)))


def _tiles(shape: tuple[int, ...], size: int, device: torch.device) -> Iterator[Tile]:
    """Index triples that cover ``(C, A, B)`` once, each with at most about one tile of values for ``size`` points."""
    budget = max(1, (CPU_TILE if device.type == "cpu" else GPU_TILE) // size)
    c, a, b = shape
    step_b = max(1, min(b, budget))
    step_a = max(1, min(a, budget // step_b))
    step_c = max(1, min(c, budget // (step_a * step_b)))
    sizes = ((c, step_c), (a, step_a), (b, step_b))
    return product(*([slice(i, min(i + step, n)) for i in range(0, n, step)] for n, step in sizes))


def _read(source: ChannelRows | Tensor, tile: Tile, dtype: torch.dtype) -> Tensor:
    """The tile of a wide input as ``(c, n)``, or the rows of a small one."""
    if isinstance(source, ChannelRows):
        return source.read(tile).to(dtype).flatten(1)
    return source if source.shape[0] == 1 else source[tile[0]]


def _add(target: ChannelRows | Tensor, tile: Tile, value: Tensor) -> None:
    """Store the tile of a wide output, or add to a small one."""
    if isinstance(target, ChannelRows):
        target.write(tile, value.view([s.stop - s.start for s in tile]))
    else:
        rows = target if target.shape[0] == 1 else target[tile[0]]
        rows += value
