"""Inputs in the layouts that an engine may meet."""

import torch

LAYOUTS = ["contiguous", "channels_last", "sliced", "transposed"]


def randn(shape, layout):
    """Normal numbers in float64 of that shape; all layouts but the first are not contiguous."""
    if layout == "channels_last":
        return torch.randn(shape[0], *shape[2:], shape[1], dtype=torch.float64).movedim(-1, 1)
    if layout == "sliced":
        return torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64)[..., ::2]
    if layout == "transposed":
        return torch.randn(shape[1], shape[0], *shape[2:], dtype=torch.float64).transpose(0, 1)
    return torch.randn(shape, dtype=torch.float64)
