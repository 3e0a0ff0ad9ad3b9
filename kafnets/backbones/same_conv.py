"""The convolution of the thesis, padded like TensorFlow's."""

import torch.nn.functional as F
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution padded like TensorFlow's ``same`` on even sizes.

    Stride 1 pads one pixel all round. Stride 2 pads nothing on top and left and one pixel on bottom and right, so its
    windows start at pixel 0, where ``padding=1`` would start them at -1.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``, H and W multiples of ``stride``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1 if stride == 1 else 0)

    @property
    def edges(self) -> tuple[int, int]:
        """How many zeros are added above and left of each image, and below and right of it."""
        return (1, 1) if self.stride == (1, 1) else (0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then convolve."""
        return super().forward(x if self.stride == (1, 1) else F.pad(x, self.edges * 2))
