"""PreActResNet18: the network of the fast adversarial training literature."""

from collections.abc import Sequence

from torch import Tensor, nn

from kafnets.activations import ReLU
from kafnets.backbones.base import ActivationFactory, Backbone, PixelMean, build_activation
from kafnets.backbones.ranges import check_sizes

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class PreActBlock(nn.Module):
    """``conv2(act2(bn2(conv1(act1(bn1(x)))))) + shortcut(x)``.

    The shortcut is the identity, or a 1x1 convolution of the raw ``x`` where the shape changes.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H/stride, W/stride)``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, activation: ActivationFactory) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = build_activation(activation, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = build_activation(activation, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut of ``x`` to the output of two convolutions."""
        y = self.conv1(self.act1(self.bn1(x)))
        y = self.conv2(self.act2(self.bn2(y)))
        return y + self.shortcut(x)


class PreActResNet18(Backbone):
    """The pre-activation ResNet-18 for small images on which fast adversarial training is measured.

    Graph: ``normalize``; conv1 3x3; four layers of two :class:`PreActBlock`, of 1, 2, 4 and 8 times ``width`` filters,
    the first block of layers 2 to 4 with stride 2; BN - act; mean over the pixels; linear. PyTorch's initialisation.
    With 10 classes and a parameter-free activation it has 11,172,170 parameters, under the names they have in the
    published fast_adversarial checkpoints.

    Args:
        activation: builds the activation of each place from its number of channels.
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of evaluation images in pixels, a multiple of 8. The network takes images of any
            size from 8 pixels on, so it can be trained on smaller ones first.
        mean, std: normalisation in input units, one value or one per channel; by default those of CIFAR-10 for
            images of three channels, and none (0 and 1) for others.
        width: filters of the first layer, >= 1.

    Shapes:
        ``(N, in_channels, H, W)`` in [0, 1], ``H, W >= 8``, to ``(N, num_classes)`` logits.

    Raises:
        ValueError: if a size is out of its range.
        TypeError: if ``activation`` builds no :class:`~kafnets.activations.base.Activation`.

    Paper:
        Wong, Rice and Kolter (2020), "Fast is better than free", ICLR, section 5; the family: He et al. (2016),
        "Identity mappings in deep residual networks", ECCV, section 4.

    Example:
        >>> sum(parameter.numel() for parameter in PreActResNet18().parameters())
        11172170
    """

    smallest_image = 8

    def __init__(
        self,
        *,
        activation: ActivationFactory = ReLU,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            halvings=3,
            mean=(CIFAR10_MEAN if in_channels == 3 else 0.0) if mean is None else mean,
            std=(CIFAR10_STD if in_channels == 3 else 1.0) if std is None else std,
        )

        check_sizes(width=width)

        def layer(before: int, after: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                PreActBlock(before, after, stride=stride, activation=activation),
                PreActBlock(after, after, stride=1, activation=activation),
            )

        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.layer1 = layer(width, width, 1)
        self.layer2 = layer(width, 2 * width, 2)
        self.layer3 = layer(2 * width, 4 * width, 2)
        self.layer4 = layer(4 * width, 8 * width, 2)
        self.bn = nn.BatchNorm2d(8 * width)
        self.act = build_activation(activation, 8 * width)
        self.pool = PixelMean()
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        x = self.conv1(self.normalize(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.act(self.bn(x))
        return self.linear(self.pool(x))
