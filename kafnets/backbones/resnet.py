"""ResNet: the CIFAR ResNet of He et al., with either of their shortcuts."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations import ReLU
from kafnets.backbones.base import ActivationFactory, Backbone, PixelMean, build_activation
from kafnets.backbones.depth import blocks_per_stage
from kafnets.backbones.init import he_normal, initialise
from kafnets.backbones.ranges import check_sizes


class Shortcut(nn.Module):
    """The skip connection of a block that halves the image, built as ``Shortcut(in_channels, out_channels)``.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H/2, W/2)``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels


class PadShortcut(Shortcut):
    """Option A: every second pixel, new channels filled with zeros; no parameters.

    He et al. (2016), "Deep residual learning for image recognition", CVPR, section 3.3 and 4.2.

    Example:
        >>> import torch
        >>> PadShortcut(1, 2)(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten().tolist()
        [0.0, 0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and widen."""
        new = self.out_channels - self.in_channels
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new // 2, new - new // 2))


class ConvShortcut(Shortcut):
    """Option B: a 1x1 convolution of stride 2 without bias, then BN.

    He et al. (2016), "Deep residual learning for image recognition", CVPR, section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Project."""
        return self.bn(self.conv(x))


class BasicBlock(nn.Module):
    """``act2(bn2(conv2(act1(bn1(conv1(x))))) + shortcut(x))``; halves the image where it widens it.

    Shapes:
        ``(N, in_channels, H, W)`` to the same, or to ``(N, out_channels, H/2, W/2)`` if the numbers of channels differ.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: ActivationFactory,
        shortcut: Callable[[int, int], Shortcut],
    ) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=1 if same else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = build_activation(activation, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity() if same else shortcut(in_channels, out_channels)
        self.act2 = build_activation(activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut of ``x`` to the output of two convolutions."""
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))


class ResNet(Backbone):
    """He et al.'s CIFAR ResNet: 6n+2 layers, batch norm after each convolution.

    Graph: ``normalize``; conv1 3x3 - BN - act; three stages of n :class:`BasicBlock`, of ``width``, ``2 width``,
    ``4 width`` filters, the first block of stages 2 and 3 with stride 2; mean over the pixels; fc. Convolutions have no
    biases; He-normal kernels.

    Args:
        depth: 6n+2 with n >= 1; the paper's are 20, 32, 44, 56 and 110.
        shortcut: builds the shortcut of each halving block from its input and output channels: :class:`PadShortcut`
            (the paper's choice on CIFAR) or :class:`ConvShortcut`.
        activation: builds the activation of each place from its number of channels.
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of the images in pixels, a multiple of 4.
        mean, std: normalisation in input units, one value or one per channel.
        width: filters of the first stage, >= 1.
        zero_last: start with 0 as the weight of the last batch norm of every block, so that a block begins as its skip
            followed by ``act2`` (Goyal et al. 2017, arXiv 1706.02677, section 5.1).

    Shapes:
        ``(N, in_channels, image_size, image_size)`` in [0, 1] to ``(N, num_classes)`` logits.

    Raises:
        ValueError: if the depth is not 6n+2, or a size is out of its range.
        TypeError: if ``activation`` builds no :class:`~kafnets.activations.base.Activation`.

    Paper:
        He et al. (2016), "Deep residual learning for image recognition", CVPR, section 4.2.

    Example:
        >>> sum(parameter.numel() for parameter in ResNet(depth=20).parameters())
        269722
    """

    def __init__(
        self,
        *,
        depth: int = 20,
        shortcut: Callable[[int, int], Shortcut] = PadShortcut,
        activation: ActivationFactory = ReLU,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        width: int = 16,
        zero_last: bool = False,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            halvings=2,
            mean=mean,
            std=std,
        )
        check_sizes(width=width)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = build_activation(activation, width)
        blocks = blocks_per_stage(depth)

        def stage(before: int, after: int) -> nn.Sequential:
            inputs = [before] + [after] * (blocks - 1)
            return nn.Sequential(*(BasicBlock(i, after, activation=activation, shortcut=shortcut) for i in inputs))

        self.stage1 = stage(width, width)
        self.stage2 = stage(width, 2 * width)
        self.stage3 = stage(2 * width, 4 * width)
        self.pool = PixelMean()
        self.fc = nn.Linear(4 * width, num_classes)
        initialise(self, he_normal)
        if zero_last:
            for block in self.modules():
                if isinstance(block, BasicBlock):
                    nn.init.zeros_(block.bn2.weight)
        self.depth = depth

    @property
    def short_label(self) -> str:
        """Class and depth."""
        return f"{type(self).__name__}{self.depth}"

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        x = self.act1(self.bn1(self.conv1(self.normalize(x))))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.pool(x))
