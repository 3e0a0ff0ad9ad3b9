"""Random numbers that depend on the image alone, not on the batch, the rank or the device.

Every random number of an attack is a function of (key of the image, position in the image), computed with the
SplitMix64 generator in 64-bit integer arithmetic. The same image under the same key gets the same noise whatever the
batch size and the number of processes, after a resume too; on every device the same uniform numbers, and the same
normal ones up to the rounding of logarithm and cosine. What a network computes from them is rounded differently in
batches of other sizes, and on a GPU perhaps in every run.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the bits of ``value`` modulo 2**64."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift, which torch lacks for int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _finalise(z: Tensor) -> Tensor:
    """SplitMix64's output function (Steele, Lea, Flood 2014), on int64 tensors that wrap around."""
    z = (z ^ _shift(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX_2)
    return z ^ _shift(z, 31)


def image_keys(index: Tensor, *salt: int) -> Tensor:
    """One 64-bit key per image, from its index and any number of integers (seed, epoch, restart, ...).

    Args:
        index: int64, any shape; the number of each image in its set.
        salt: integers that distinguish uses of the same image; their order matters.

    Returns:
        int64 of the shape of ``index``.

    Example:
        >>> a, b = image_keys(torch.tensor([7, 8]), 0, 1), image_keys(torch.tensor([8, 7]), 0, 1)
        >>> bool((a == b.flip(0)).all()), bool((a == image_keys(torch.tensor([7, 8]), 1, 0)).any())
        (True, False)
    """
    keys = _finalise(index.to(torch.int64) + _signed(_GOLDEN))
    for value in salt:
        keys = _finalise((keys ^ _signed(value)) + _signed(_GOLDEN))
    return keys


def uniform(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform multiples of 2**-24 in [0, 1), one row per key.

    Args:
        keys: int64 ``(N,)``, from :func:`image_keys`.
        shape: shape of one row.

    Returns:
        float32 ``(N, *shape)`` on the device of ``keys``.

    Example:
        >>> u = uniform(image_keys(torch.arange(4), 0), (3, 32, 32))
        >>> u.shape, bool((u >= 0).all() and (u < 1).all()), round(u.mean().item(), 1)
        (torch.Size([4, 3, 32, 32]), True, 0.5)
    """
    counter = torch.arange(1, math.prod(shape) + 1, device=keys.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _shift(_finalise(keys.reshape(-1, 1) + counter), 40)
    return (bits.to(torch.float32) * 2.0**-24).reshape(-1, *shape)


def normal(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, one row per key (Box and Muller 1958); shapes and dtypes as :func:`uniform`."""
    radius, angle = uniform(keys, (2, *shape)).unbind(1)
    # 1 - u lies in (0, 1], so the logarithm is finite
    return (-2.0 * torch.log1p(-radius)).sqrt() * torch.cos(2 * torch.pi * angle)


def keys_for(x: Tensor, keys: Tensor | None) -> Tensor:
    """``keys``, checked to be one per image; if None, keys that follow ``torch.manual_seed``."""
    if keys is None:
        return torch.randint(2**62, (len(x),)).to(x.device)
    if keys.shape != x.shape[:1]:
        raise ValueError(f"keys must be one per image, shape ({len(x)},), got {tuple(keys.shape)}")
    return keys
