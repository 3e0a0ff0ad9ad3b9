"""KafResNet: the CIFAR ResNet in the form of the thesis, whose blocks normalise after the addition."""

from collections.abc import Sequence

from torch import Tensor, nn

from kafnets.activations import KAF
from kafnets.backbones.base import ActivationFactory, Backbone, PixelMean, build_activation
from kafnets.backbones.depth import blocks_per_stage
from kafnets.backbones.init import glorot_uniform, initialise
from kafnets.backbones.ranges import check_momentum, check_sizes
from kafnets.backbones.same_conv import SameConv2d


class KafBlock(nn.Module):
    """The residual block of the thesis: ``act_out(bn_out(conv_b(act_a(bn_a(conv_a(x)))) + skip(x)))``.

    The skip is the identity, or ``conv_skip``, a 3x3 convolution with bias and no BN, where the stride is 2.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        activation: ActivationFactory,
        bn_momentum: float,
    ) -> None:
        super().__init__()
        self.conv_a = SameConv2d(in_channels, out_channels, stride=stride)
        self.bn_a = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=bn_momentum)
        self.act_a = build_activation(activation, out_channels)
        self.conv_b = SameConv2d(out_channels, out_channels)
        self.conv_skip = nn.Identity() if stride == 1 else SameConv2d(in_channels, out_channels, stride=stride)
        self.bn_out = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=bn_momentum)
        self.act_out = build_activation(activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the skip of ``x`` to the output of two convolutions."""
        y = self.conv_b(self.act_a(self.bn_a(self.conv_a(x))))
        return self.act_out(self.bn_out(y + self.conv_skip(x)))


class KafResNet(Backbone):
    """The CIFAR ResNet of the thesis: 6n+2 layers, batch norm after the addition.

    Graph: ``normalize``; conv1 3x3 - BN - act; three stages of n :class:`KafBlock`, of ``width``, ``2 width``,
    ``4 width`` filters, the first block of stages 2 and 3 with stride 2; mean over the pixels; fc. Glorot-uniform
    kernels, zero biases (every layer has them), BN eps 1e-3. Blocks are named ``block<stage>_<k>``, both from 1.

    Args:
        depth: 6n+2 with n >= 1; the thesis's are 20, 56 and 110.
        activation: builds the activation of each place from its number of channels.
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of the images in pixels, a multiple of 4.
        mean, std: normalisation in input units, one value or one per channel.
        width: filters of the first stage, >= 1.
        bn_momentum: weight of the newest batch in the running statistics, in (0, 1]; 0.01 is Keras's 0.99.
        zero_last: start with 0 as the kernel of ``conv_b`` of every block, so that a block begins as ``act_out(bn_out(
            skip(x)))``. There is no batch norm after that convolution whose weight could be 0 instead, as in
            :class:`~kafnets.backbones.ResNet`.

    Shapes:
        ``(N, in_channels, image_size, image_size)`` in [0, 1] to ``(N, num_classes)`` logits.

    Raises:
        ValueError: if the depth is not 6n+2, or a size or the momentum is out of its range.
        TypeError: if ``activation`` builds no :class:`~kafnets.activations.base.Activation`.

    Paper:
        F. Peconi (2020), thesis on trainable activations and adversarial robustness, chapter 4; the family: He et al.
        (2016), "Deep residual learning for image recognition", CVPR, section 4.2.

    Example:
        >>> import torch
        >>> KafResNet(depth=8, width=4, image_size=8).eval()(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depth: int = 20,
        activation: ActivationFactory = KAF,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        width: int = 16,
        bn_momentum: float = 0.01,
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
        check_momentum(bn_momentum)
        self.conv1 = SameConv2d(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width, eps=1e-3, momentum=bn_momentum)
        self.act1 = build_activation(activation, width)
        self.block_names: list[str] = []
        channels = width
        for stage in (1, 2, 3):
            for k in range(1, blocks_per_stage(depth) + 1):
                out_channels = width * 2 ** (stage - 1)
                stride = 1 if channels == out_channels else 2
                block = KafBlock(channels, out_channels, stride=stride, activation=activation, bn_momentum=bn_momentum)
                self.block_names.append(f"block{stage}_{k}")
                self.add_module(self.block_names[-1], block)
                channels = out_channels
        self.pool = PixelMean()
        self.fc = nn.Linear(channels, num_classes)
        initialise(self, glorot_uniform)
        if zero_last:
            for name in self.block_names:
                nn.init.zeros_(getattr(self, name).conv_b.weight)
        self.depth = depth

    @property
    def short_label(self) -> str:
        """Class and depth."""
        return f"{type(self).__name__}{self.depth}"

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        x = self.act1(self.bn1(self.conv1(self.normalize(x))))
        for name in self.block_names:
            x = getattr(self, name)(x)
        return self.fc(self.pool(x))
