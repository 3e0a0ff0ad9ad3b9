"""KafVGG: the small VGG of the thesis."""

import functools
from collections.abc import Sequence

from torch import Tensor, nn

from kafnets.activations import KAF
from kafnets.backbones.base import ActivationFactory, Backbone, build_activation
from kafnets.backbones.init import he_uniform, initialise
from kafnets.backbones.ranges import check_dropout, check_momentum, check_sizes


class VGGBlock(nn.Module):
    """Twice conv3x3 - BN - activation, then 2x2 max-pool and dropout.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H/2, W/2)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: ActivationFactory,
        dropout: float,
        bn_momentum: float,
    ) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn_a = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=bn_momentum)
        self.act_a = build_activation(activation, out_channels)
        self.conv_b = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn_b = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=bn_momentum)
        self.act_b = build_activation(activation, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the image."""
        x = self.act_a(self.bn_a(self.conv_a(x)))
        x = self.act_b(self.bn_b(self.conv_b(x)))
        return self.dropout(self.pool(x))


class KafVGG(Backbone):
    """The VGG of the thesis: three blocks of two convolutions, one hidden dense layer.

    Graph: ``normalize``; blocks 1 to 3 = [conv3x3 - BN - act] twice - max-pool - dropout, of ``width``, ``2 width``,
    ``4 width`` filters; flatten; dense ``hidden`` - act - dropout; dense ``num_classes``. He-uniform kernels, zero
    biases (every layer has them), BN eps 1e-3. With ``head_norm``, a BN stands before the activation of the hidden
    layer too: without it, the inputs of a KAF there leave its dictionary, outside which it and its gradient decay to 0.

    Args:
        activation: builds the activation of each place from its number of channels.
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of the images in pixels, a multiple of 8.
        mean, std: normalisation in input units, one value or one per channel.
        width: filters of the first block, >= 1.
        hidden: units of the hidden dense layer, >= 1.
        dropout: the four rates in [0, 1): after each block, and after the hidden layer.
        bn_momentum: weight of the newest batch in the running statistics, in (0, 1]; 0.01 is Keras's 0.99.
        head_norm: whether the hidden dense layer has a BN; the thesis's has none.

    Shapes:
        ``(N, in_channels, image_size, image_size)`` in [0, 1] to ``(N, num_classes)`` logits.

    Raises:
        ValueError: if a size, a rate or the momentum is out of its range.
        TypeError: if ``activation`` builds no :class:`~kafnets.activations.base.Activation`.

    Paper:
        F. Peconi (2020), thesis on trainable activations and adversarial robustness, chapter 4; the family: Simonyan
        and Zisserman (2015), "Very deep convolutional networks for large-scale image recognition", ICLR, section 2.

    Example:
        >>> import torch
        >>> KafVGG(in_channels=1, image_size=8).eval()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        activation: ActivationFactory = KAF,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        width: int = 32,
        hidden: int = 128,
        dropout: tuple[float, float, float, float] = (0.2, 0.25, 0.3, 0.4),
        bn_momentum: float = 0.01,
        head_norm: bool = False,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            halvings=3,
            mean=mean,
            std=std,
        )
        check_sizes(width=width, hidden=hidden)
        check_dropout(dropout, count=4)
        check_momentum(bn_momentum)
        block = functools.partial(VGGBlock, activation=activation, bn_momentum=bn_momentum)
        self.block1 = block(in_channels, width, dropout=dropout[0])
        self.block2 = block(width, 2 * width, dropout=dropout[1])
        self.block3 = block(2 * width, 4 * width, dropout=dropout[2])
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(4 * width * (image_size // 8) ** 2, hidden)
        self.bn = nn.BatchNorm1d(hidden, eps=1e-3, momentum=bn_momentum) if head_norm else nn.Identity()
        self.act = build_activation(activation, hidden)
        self.dropout = nn.Dropout(dropout[3])
        self.fc = nn.Linear(hidden, num_classes)
        initialise(self, he_uniform)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        x = self.normalize(x)
        x = self.block3(self.block2(self.block1(x)))
        x = self.dropout(self.act(self.bn(self.dense(self.flatten(x)))))
        return self.fc(x)
