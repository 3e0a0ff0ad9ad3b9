"""ResNet-18 and ResNet-50 in the form of ImageNet, whose weights are those of torchvision."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from kafnets.activations import ReLU
from kafnets.backbones.base import ActivationFactory, Backbone, PixelMean, build_activation
from kafnets.backbones.ranges import check_sizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """``act(body(x) + downsample(x))``, where ``downsample`` is the identity or a 1x1 convolution and BN.

    Built as ``Block(in_channels, channels, stride=..., activation=...)``.

    Shapes:
        ``(N, in_channels, H, W)`` to ``(N, expansion * channels, H/stride, W/stride)``, rounded up.
    """

    expansion: ClassVar[int]

    def __init__(self, in_channels: int, channels: int, *, stride: int, activation: ActivationFactory) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.add_body(in_channels, channels, stride, activation)
        self.act = build_activation(activation, out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def add_body(self, in_channels: int, channels: int, stride: int, activation: ActivationFactory) -> None:
        """Add the layers of the body."""
        raise NotImplementedError

    def body(self, x: Tensor) -> Tensor:
        """Return what is added to the shortcut."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut of ``x`` to the output of the body."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act(self.body(x) + shortcut)


class TwoConvolutions(Block):
    """The block of ResNet-18: two 3x3 convolutions; torchvision's ``BasicBlock``."""

    expansion = 1

    def add_body(self, in_channels: int, channels: int, stride: int, activation: ActivationFactory) -> None:
        """Add the layers of the body."""
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = build_activation(activation, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def body(self, x: Tensor) -> Tensor:
        """Return what is added to the shortcut."""
        return self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    """The block of ResNet-50: 1x1, 3x3 and 1x1 convolutions; the 3x3 one has the stride, as in torchvision."""

    expansion = 4

    def add_body(self, in_channels: int, channels: int, stride: int, activation: ActivationFactory) -> None:
        """Add the layers of the body."""
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = build_activation(activation, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = build_activation(activation, channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)

    def body(self, x: Tensor) -> Tensor:
        """Return what is added to the shortcut."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(self.act2(self.bn2(self.conv2(x)))))


class ImageNetResNet(Backbone):
    """The base of :class:`ResNet18` and :class:`ResNet50`.

    Graph: ``normalize``; conv1 7x7 of stride 2 - BN - act; 3x3 maximum of stride 2; four layers of blocks, of 1, 2, 4
    and 8 times ``width`` filters, the first block of layers 2 to 4 with stride 2; mean over the pixels; fc. Kernels,
    initialisation and the names of all parameters are torchvision's; those of activations come in addition.

    Args:
        activation: builds the activation of each place from its number of channels.
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of evaluation images in pixels, >= 64. The network takes square and other images
            of any size from 64 pixels on.
        mean, std: normalisation in input units, one value or one per channel; by default those of ImageNet for images
            of three channels, and none (0 and 1) for others.
        width: filters of the first layer, >= 1; 64 are torchvision's.

    Shapes:
        ``(N, in_channels, H, W)`` in [0, 1], ``H, W >= 64``, to ``(N, num_classes)`` logits.

    Raises:
        ValueError: if a size is out of its range.
        TypeError: if ``activation`` builds no :class:`~kafnets.activations.base.Activation`.
    """

    smallest_image = 64
    block: ClassVar[type[Block]]
    blocks: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        *,
        activation: ActivationFactory = ReLU,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            halvings=0,
            mean=(IMAGENET_MEAN if in_channels == 3 else 0.0) if mean is None else mean,
            std=(IMAGENET_STD if in_channels == 3 else 1.0) if std is None else std,
        )
        check_sizes(width=width)
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = build_activation(activation, width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = width
        for place, count in enumerate(self.blocks):
            channels, stride = width * 2**place, 1 if place == 0 else 2
            inputs = [before, *[channels * self.block.expansion] * (count - 1)]
            strides = [stride, *[1] * (count - 1)]
            layer = [
                self.block(i, channels, stride=s, activation=activation) for i, s in zip(inputs, strides, strict=True)
            ]
            self.add_module(f"layer{place + 1}", nn.Sequential(*layer))
            before = channels * self.block.expansion
        self.pool = PixelMean()
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(self.normalize(x)))))
        for place in range(len(self.blocks)):
            x = getattr(self, f"layer{place + 1}")(x)
        return self.fc(self.pool(x))


class ResNet18(ImageNetResNet):
    """ResNet-18 for photographs; see :class:`ImageNetResNet` for its arguments.

    With 1000 classes and a parameter-free activation it has 11,689,512 parameters; a KAF adds 20 per channel, 78,080
    (0.7 %), or 340 with ``groups=1``. For images of 32 pixels, see
    :class:`~kafnets.backbones.preact_resnet.PreActResNet18`.

    Paper:
        He et al. (2016), "Deep residual learning for image recognition", CVPR, table 1.

    Example:
        >>> sum(parameter.numel() for parameter in ResNet18().parameters())
        11689512
    """

    block, blocks = TwoConvolutions, (2, 2, 2, 2)


class ResNet50(ImageNetResNet):
    """ResNet-50 for photographs; see :class:`ImageNetResNet` for its arguments.

    With 1000 classes and a parameter-free activation it has 25,557,032 parameters; a KAF adds 20 per channel, 454,400
    (1.8 %), or 980 with ``groups=1``.

    Paper:
        He et al. (2016), "Deep residual learning for image recognition", CVPR, table 1; the stride: torchvision.

    Example:
        >>> import torch
        >>> ResNet50(width=4, num_classes=10).eval()(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    block, blocks = Bottleneck, (3, 4, 6, 3)
