"""LightNet: the toy network of the thesis."""

from collections.abc import Sequence

from torch import Tensor, nn

from kafnets.activations import ReLU
from kafnets.backbones.base import ActivationFactory, Backbone, PixelMean, build_activation
from kafnets.backbones.init import glorot_uniform, initialise
from kafnets.backbones.ranges import check_dropout


class LightBlock(nn.Module):
    """Twice conv3x3 - activation, then 2x2 max-pool and dropout.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H/2, W/2)``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: ActivationFactory, dropout: float) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.act_a = build_activation(activation, out_channels)
        self.conv_b = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.act_b = build_activation(activation, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the image."""
        x = self.act_b(self.conv_b(self.act_a(self.conv_a(x))))
        return self.dropout(self.pool(x))


class LightNet(Backbone):
    """The toy network of the thesis's study of pre-activations: four convolutions, no batch norm.

    Graph: ``normalize``; blocks 1 and 2 = [conv3x3 - act] twice - max-pool - dropout, of 32 and 64 filters; mean over
    the pixels; dense 128 - act; dense ``num_classes``. Glorot-uniform kernels, zero biases.

    Args:
        activation: builds the activation of each place from its number of channels.
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of the images in pixels, a multiple of 4.
        mean, std: normalisation in input units, one value or one per channel.
        dropout: the two rates in [0, 1), after each block; the thesis does not state its rates.

    Shapes:
        ``(N, in_channels, image_size, image_size)`` in [0, 1] to ``(N, num_classes)`` logits.

    Raises:
        ValueError: if a size or a rate is out of its range.
        TypeError: if ``activation`` builds no :class:`~kafnets.activations.base.Activation`.

    Paper:
        F. Peconi (2020), thesis on trainable activations and adversarial robustness, chapter 4.

    Example:
        >>> import torch
        >>> LightNet(image_size=8).eval()(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        activation: ActivationFactory = ReLU,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        dropout: tuple[float, float] = (0.25, 0.25),
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            halvings=2,
            mean=mean,
            std=std,
        )
        check_dropout(dropout, count=2)
        self.block1 = LightBlock(in_channels, 32, activation=activation, dropout=dropout[0])
        self.block2 = LightBlock(32, 64, activation=activation, dropout=dropout[1])
        self.pool = PixelMean()
        self.dense = nn.Linear(64, 128)
        self.act = build_activation(activation, 128)
        self.fc = nn.Linear(128, num_classes)
        initialise(self, glorot_uniform)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        x = self.block2(self.block1(self.normalize(x)))
        return self.fc(self.act(self.dense(self.pool(x))))
