"""One convolution with the operations that follow it in a network in evaluation mode: batch norm, addition, ReLU."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kafnets.fused.native import library

# Measured: up to so many weights each method is faster than PyTorch; so is the direct method up to this filter size.
WINOGRAD_WEIGHTS, DIRECT_WEIGHTS, WIDEST = 512 * 512 * 9, 32 * 64 * 9, 7


@dataclass(frozen=True)
class ConvStep:
    """``relu(scale conv(source - mean, filters) + shift + skip_scale skip)``.

    Args:
        source: number of the value that is convolved: inputs of the chain count from 0, then the outputs of its steps.
        filters: float32 ``(out, in, size, size)``.
        stride: in both directions.
        padding: zeros above and left of an image, and below and right of it.
        scale, shift, skip_scale: ``(out,)``; None for 1, 0 and 1.
        mean: ``(in,)``, subtracted from every pixel before the image is padded with zeros; None for 0.
        skip: number of the value that is added, of the shape of the output; None for none.
        relu: whether ReLU is applied.
    """

    source: int
    filters: Tensor
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    scale: Tensor | None = None
    shift: Tensor | None = None
    mean: Tensor | None = None
    skip: int | None = None
    skip_scale: Tensor | None = None
    relu: bool = False

    def size(self, pixels: int) -> int:
        """Height or width of the output for that of the source."""
        return (pixels + sum(self.padding) - self.filters.shape[-1]) // self.stride + 1

    @property
    def scaled(self) -> Tensor:
        """The filters times ``scale``."""
        return self.filters if self.scale is None else self.filters * self.scale.view(-1, 1, 1, 1)

    def check_constants(self) -> None:
        """Raise ``ValueError`` if a constant does not have the shape that the class names."""
        outputs, inputs = self.filters.shape[:2]
        for name, count in {"scale": outputs, "shift": outputs, "skip_scale": outputs, "mean": inputs}.items():
            value = getattr(self, name)
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} must be of shape ({count},), one per channel, got {tuple(value.shape)}")

    def plain(self, values: Sequence[Tensor]) -> Tensor:
        """The step computed by PyTorch."""
        x = values[self.source]
        x = x if self.mean is None else x - self.mean.view(-1, 1, 1)
        y = F.conv2d(F.pad(x, self.padding * 2), self.scaled, self.shift, stride=self.stride)
        if self.skip is not None:
            skip = values[self.skip]
            y = y + (skip if self.skip_scale is None else skip * self.skip_scale.view(-1, 1, 1))
        return y.relu() if self.relu else y

    def suits_winograd(self, *, transposed: bool = False) -> bool:
        """Whether C++ can use Winograd's algorithm for the step, or (``transposed``) for its gradient."""
        same = (self.stride, self.padding) == (1, (1, 1))
        usual = self.filters.shape[-1] == 3 and (same or (self.stride == 2 and self.padding[0] <= 1))
        channels = self.filters.shape[0 if transposed else 1]
        whole = channels % library.lanes() == 0
        possible = usual and whole and (transposed or self.mean is None)
        return possible and self.filters.numel() <= WINOGRAD_WEIGHTS

    @property
    def suits(self) -> bool:
        """Whether a chain can compute the step, and does so faster than PyTorch."""
        if self.filters.dtype != torch.float32 or self.filters.device.type != "cpu":
            return False
        whole = self.filters.shape[0] % library.lanes() == 0
        small = self.filters.shape[-1] <= WIDEST and self.filters.numel() <= DIRECT_WEIGHTS
        return whole and (small or self.suits_winograd())
