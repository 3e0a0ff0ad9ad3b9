"""ResNet-18 and ResNet-50 in torchvision's form."""

import functools

import pytest
import torch
from torch import nn
from torchvision import models

from kafnets.activations import KAF, Activation, SiLU
from kafnets.backbones import ResNet18, ResNet50

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def randomised(net: nn.Module) -> nn.Module:
    """The network with random parameters and running statistics, so that no layer is an identity by chance."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize(("ours", "theirs"), [(ResNet18, models.resnet18), (ResNet50, models.resnet50)])
def test_the_weights_of_torchvision_load_and_give_the_same_logits(ours, theirs):
    expected = randomised(theirs())
    net = ours(image_size=64).eval()
    net.load_state_dict(expected.state_dict())
    x = torch.rand(2, 3, 70, 64)
    mean, std = (torch.tensor(IMAGENET[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected((x - mean) / std), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "plain", "per_channel", "shared"),
    [(ResNet18, 11_689_512, 78_080, 340), (ResNet50, 25_557_032, 454_400, 980)],
)
def test_parameters(build, plain, per_channel, shared):
    with torch.device("meta"):
        count = [
            sum(parameter.numel() for parameter in build(activation=activation).parameters())
            for activation in (SiLU, KAF, functools.partial(KAF, groups=1))
        ]
    assert [count[0], count[1] - count[0], count[2] - count[0]] == [plain, per_channel, shared]


@pytest.mark.parametrize(("build", "places"), [(ResNet18, 17), (ResNet50, 49)])
def test_any_activation_and_any_size_from_64_pixels_on(build, places):
    net = build(width=2, num_classes=3, activation=KAF, image_size=100)
    assert sum(isinstance(module, Activation) for module in net.modules()) == places
    for size in (64, 75, 128):
        net(torch.rand(2, 3, size, size)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_size_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="ResNet18 takes 64 pixels or more, got 63; resize the images"):
        ResNet18(image_size=63)
    with pytest.raises(ValueError, match=r"ResNet18 takes images of shape \(N, 3, H, W\), got \(1, 1, 64, 64\)"):
        ResNet18(width=1)(torch.rand(1, 1, 64, 64))


def test_grey_images_are_not_normalised_with_the_statistics_of_colour():
    assert ResNet18(width=1, in_channels=1).normalize.mean.item() == 0
