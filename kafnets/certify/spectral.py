"""Upper bounds of the spectral norm of convolutions and dense layers: never below the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.backbones.same_conv import SameConv2d

ROUNDS = 12  # the bound of an n x n matrix is at most n^(1 / 2^(ROUNDS + 2)) times the truth: 1.0004 for n = 512
SLACK = 1 + 1e-9  # far above the rounding errors of float64


def largest_singular_value(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    """An upper bound of the largest singular value of any of some matrices, by Gram iteration.

    With the Gram matrix ``G = A A^*`` or ``A^* A``, ``sigma^2 <= ||G^(2^t)||_F^(1 / 2^t)`` for every t, and the right
    side falls to ``sigma^2`` (Delattre, Barthelemy, Araujo, Allauzen 2023, arXiv 2305.16173). Differentiable.

    Args:
        matrices: ``(F, m, n)``, real or complex.
        rounds: t, the number of squarings.

    Returns:
        A scalar, in the real dtype of the matrices.

    Example:
        >>> round(largest_singular_value(torch.diag(torch.tensor([3.0, -4.0])).double()[None]).item(), 3)
        4.0
    """
    unit = matrices.detach().abs().amax().clamp_min(torch.finfo(matrices.real.dtype).tiny)
    matrices, wide = matrices / unit, matrices.shape[1] < matrices.shape[2]
    gram = matrices @ matrices.mH if wide else matrices.mH @ matrices
    exponent = torch.zeros(len(gram), dtype=gram.real.dtype, device=gram.device)
    for _ in range(rounds):
        gram, exponent = _rescaled(gram, exponent)
        gram, exponent = gram @ gram, 2 * exponent
    _, exponent = _rescaled(gram, exponent)
    return (exponent.amax() / 2 ** (rounds + 1)).exp() * unit * SLACK


def _rescaled(gram: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """The same matrices with a Frobenius norm of 1, and the logarithm of what they were divided by."""
    size = gram.abs().square().sum((1, 2)).clamp_min(torch.finfo(exponent.dtype).tiny).sqrt()
    return gram / size[:, None, None], exponent + size.log()


def linear_norm(weight: Tensor, rounds: int = ROUNDS) -> Tensor:
    """An upper bound of the spectral norm of a dense layer, weight ``(out, in)``."""
    return largest_singular_value(weight[None], rounds)


def edges_of(conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many zeros a convolution adds above and below, and left and right.

    Raises:
        ValueError: if it pads with something else.
    """
    if conv.padding_mode != "zeros":
        raise ValueError(f"no sound bound is known for padding_mode={conv.padding_mode!r}; take zeros")
    if isinstance(conv, SameConv2d):
        return conv.edges, conv.edges
    if isinstance(conv.padding, str):
        total = [
            d * (k - 1) if conv.padding == "same" else 0 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        ]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    return (int(conv.padding[0]),) * 2, (int(conv.padding[1]),) * 2


def conv_norm(conv: nn.Conv2d, weight: Tensor, size: tuple[int, int] | torch.Size, rounds: int = ROUNDS) -> Tensor:
    """An upper bound of the spectral norm of a convolution with zero padding, on images of one size.

    A convolution of stride 1 on n pixels is a part of the circular convolution on ``N >= n + k - 1`` pixels, whose
    singular values are those of its Fourier transform at each frequency (Sedghi, Gupta, Long 2019). On n pixels the
    transform alone is no bound. A stride s is a stride of 1 after each s x s pixels became one pixel of s^2 times as
    many channels.

    Args:
        conv: where stride, padding, dilation and groups are read.
        weight: ``(out, in / groups, k, k)``, in place of its own: with a batch norm folded in, or in float64.
        size: height and width of the input, without the padding.
        rounds: see :func:`largest_singular_value`.

    Example:
        >>> difference = nn.Conv2d(1, 1, (1, 2), padding=(0, 1), bias=False)
        >>> weight = torch.tensor([[[[-1.0, 1.0]]]], dtype=torch.float64)
        >>> round(conv_norm(difference, weight, (1, 5)).item(), 4)  # the truth is 1.9319, the transform's 1.9021
        2.0
    """
    for axis, stretch in zip((2, 3), conv.dilation, strict=True):
        weight = _stretched(weight, axis, stretch)
    lengths = []
    for axis, step, pixels, edges in zip((2, 3), conv.stride, size, edges_of(conv), strict=True):
        weight = _pad_to_multiple(weight, axis, step)
        blocks_of_pixels = (pixels + edges[0] - 1) // step - edges[0] // step + 1
        lengths.append(blocks_of_pixels + weight.shape[axis] // step - 1)
    (rows, columns), out = conv.stride, len(weight)
    blocks = weight.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # (out, in, k, rows, l, columns)
    blocks = blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    transform = torch.fft.rfft2(blocks, s=lengths).flatten(2).permute(2, 0, 1)
    parts = transform.split(out // conv.groups, dim=1)
    return torch.stack([largest_singular_value(part, rounds) for part in parts]).amax()


def _stretched(weight: Tensor, axis: int, factor: int) -> Tensor:
    """The kernel with zeros between its entries, as dilation applies it."""
    if factor == 1:
        return weight
    shape = list(weight.shape)
    shape[axis] = factor * (shape[axis] - 1) + 1
    places = torch.arange(weight.shape[axis], device=weight.device) * factor
    return weight.new_zeros(shape).index_copy(axis, places, weight)


def _pad_to_multiple(weight: Tensor, axis: int, step: int) -> Tensor:
    missing = -weight.shape[axis] % step
    return F.pad(weight, (0, missing) if axis == 3 else (0, 0, 0, missing))
