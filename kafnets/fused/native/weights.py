"""Filters in the orders in which the C++ code reads them.

``transposed`` weights belong to the transposed convolution, which takes the gradient of the output to that of the
input. The last dimension of all weights is padded with zeros to whole vectors, and stored two vectors at a time.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

MATRICES = 36  # matrices of weights per transformed filter
DEPTH = 64  # channels per partial sum of Winograd's products: one sum over 512 has three times the rounding error


def frequencies(
    filters: Tensor, scale: Tensor | None = None, *, stride: int = 1, transposed: bool, lib: ctypes.CDLL
) -> Tensor:
    """Winograd's transform of filters ``(out, in, 3, 3)`` times ``scale`` ``(out,)``.

    Returns:
        ``(36, parts, in / parts, out)``; transposed, ``(36, parts, out / parts, in)``.
    """
    short = -filters.shape[1 if transposed else 0] % lib.conv_lanes()
    filters = F.pad(filters, (0, 0, 0, 0, 0, short) if transposed else (0, 0, 0, 0, 0, 0, 0, short)).contiguous()
    scale = None if scale is None else F.pad(scale, (0, 0 if transposed else short)).contiguous()
    outputs, inputs = filters.shape[:2]
    weights = torch.empty((MATRICES, outputs, inputs) if transposed else (MATRICES, inputs, outputs))
    scale_address = None if scale is None else scale.data_ptr()
    lib.conv_weights(filters.data_ptr(), scale_address, outputs, inputs, stride, int(transposed), weights.data_ptr())
    parts, rows = 1, weights.shape[1]
    while rows // parts > DEPTH and rows % (2 * parts) == 0:
        parts *= 2
    return _in_pairs_of_vectors(weights.unflatten(1, (parts, rows // parts)), lib.conv_lanes())


def taps(filters: Tensor, *, transposed: bool, lib: ctypes.CDLL) -> Tensor:
    """Filters ``(out, in, size, size)`` as ``(size, size in, out)``; transposed, as ``(size, size, out, in)``."""
    weights = filters.permute(2, 3, 0, 1) if transposed else filters.permute(2, 3, 1, 0).flatten(1, 2)
    return _in_pairs_of_vectors(F.pad(weights, (0, -weights.shape[-1] % lib.conv_lanes())), lib.conv_lanes())


def _in_pairs_of_vectors(weights: Tensor, lanes: int) -> Tensor:
    """Matrices ``(..., rows, columns)``, stored two vectors of columns at a time."""
    parts = [part.flatten(-2) for part in weights.split(2 * lanes, dim=-1)]
    return torch.cat(parts, dim=-1).reshape(weights.shape)
