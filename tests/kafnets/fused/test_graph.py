"""What is folded, on all backbones and on networks with unusual layers; results against the network itself."""

import copy
import functools

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, ReLU, SiLU
from kafnets.backbones import ConvShortcut, KafResNet, KafVGG, LightNet, Normalize, PreActResNet18, ResNet
from kafnets.fused import Fused
from kafnets.fused.graph import ChainModule
from kafnets.ops import dispatch

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)

# how many convolutions are folded: all of them
BACKBONES = {
    "kafvgg": (functools.partial(KafVGG, width=16, hidden=16), 6),
    "kafresnet": (functools.partial(KafResNet, depth=14, width=16), 15),
    "resnet": (functools.partial(ResNet, depth=14, width=16), 13),
    "resnet_b": (functools.partial(ResNet, depth=8, width=16, shortcut=ConvShortcut), 9),
    "preactresnet18": (functools.partial(PreActResNet18, width=16), 20),
    "lightnet": (LightNet, 4),
}


@pytest.mark.parametrize("activation", [ReLU, KAF, SiLU, KWTA])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_agrees_with_its_fused_form(name, activation, images, trained, logits_and_gradient):
    torch.manual_seed(0)
    build, folded = BACKBONES[name]
    net = trained(build(activation=activation, image_size=8))
    fused = Fused(net)
    found = logits_and_gradient(fused, images)
    assert len(fused._form.convs) == folded
    if activation is KWTA:  # rounding changes the winners, and with them the gradient
        torch.testing.assert_close(found[0], net(images), rtol=0.05, atol=0.05)
        return
    plain = logits_and_gradient(net, images)
    exact = logits_and_gradient(copy.deepcopy(net).double(), images.double())
    for ours, theirs, wanted in zip(found, plain, exact, strict=True):
        rounding = (theirs - wanted).abs().max()
        assert (ours - wanted).abs().max() <= 4 * rounding + 1e-6 * wanted.abs().max()


def test_all_that_can_be_is_folded(net, images):
    fused = Fused(net)
    fused(images)
    kinds = {type(module) for module in fused._form.graph.modules() if not list(module.children())}
    assert not kinds & {nn.Conv2d, nn.BatchNorm2d, ReLU, Normalize}
    assert sum(isinstance(module, ChainModule) for module in fused._form.graph.modules()) == 1


class UnusualLayers(nn.Module):
    """Convolutions and additions that cannot be folded, or only in part."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular"),
                nn.Conv2d(16, 16, 3, padding=1, groups=2),
                nn.Conv2d(16, 16, 3, padding=2, dilation=2),
                nn.Conv2d(16, 16, (3, 1), padding=(1, 0)),
                nn.Conv2d(16, 16, 3, padding="same"),
                nn.Conv2d(16, 10, 3, padding=1),
                nn.Conv2d(10, 16, 3, padding=1),
                nn.Conv2d(16, 16, 3, padding=1, bias=False),
            ]
        )
        self.plain = nn.BatchNorm2d(16, affine=False)
        self.stateless = nn.BatchNorm2d(16, track_running_stats=False)
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.offset = nn.Parameter(torch.rand(1, 16, 1, 1))

    def forward(self, x):
        for conv in self.convs:
            x = conv(x)
        x = self.stateless(self.plain(x))
        y = self.last(x)
        y = y + y  # no skip: both terms are the same
        return (y + x + 1.0).relu().mean((2, 3))


class AddsParameter(UnusualLayers):
    """Adds a parameter, which is no skip."""

    def forward(self, x):
        return (self.convs[7](self.convs[0](x)) + self.offset).mean((2, 3))


class AddsMultiple(UnusualLayers):
    """Adds a multiple of a value, and reads a value in two places."""

    def forward(self, x):
        a = self.convs[7](self.convs[0](x))
        b = self.last(a)
        c = torch.add(self.convs[7](b), a, alpha=0.5)
        return (b + c).mean((2, 3)) + b.amax((2, 3))


class Normalized(nn.Module):
    """Normalises images of any size; each of its convolutions reads the normalised images."""

    def __init__(self, convs, channels=3):
        super().__init__()
        self.normalize = Normalize(0.5, [0.2, *[0.5] * (channels - 1)], channels)
        self.convs = nn.ModuleList(nn.Conv2d(channels, 16, 3, padding=1) for _ in range(convs))

    def forward(self, x):
        x = self.normalize(x)
        return sum(conv(x).relu() for conv in self.convs).mean((2, 3))


class ClippedReLU(ReLU):
    """A subclass of ReLU that computes something else."""

    def forward(self, x):
        return super().forward(x).clamp_max(0.1)


def test_additions_of_multiples_and_values_read_twice(images, trained, logits_and_gradient):
    torch.manual_seed(0)
    net = trained(AddsMultiple())
    fused = Fused(net)
    for one, other in zip(logits_and_gradient(fused, images), logits_and_gradient(net, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert [conv.addition is None for conv in fused._form.convs] == [True] * 3


@pytest.mark.parametrize(("convs", "channels", "folded"), [(1, 3, True), (2, 3, False), (1, 16, True)])
def test_normalisation_is_folded_where_one_convolution_reads_it(convs, channels, folded, logits_and_gradient, is_fused):
    torch.manual_seed(0)
    net = Normalized(convs, channels).eval()
    fused = Fused(net)
    for size in (8, 9, 8):
        images = torch.rand(6, channels, size, 8)
        for one, other in zip(logits_and_gradient(fused, images), logits_and_gradient(net, images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert is_fused(fused) and all(bool(conv.normalize) == folded for conv in fused._form.convs)


def test_normalisation_by_one_number_is_not_folded(images, is_fused):
    net = Normalized(1).eval()
    net.normalize.mean = torch.full((1,), 0.5)
    fused = Fused(net)
    torch.testing.assert_close(fused(images), net(images), rtol=1e-4, atol=1e-5)
    assert is_fused(fused) and fused._form.convs[0].normalize is None


def test_subclasses_of_relu_are_not_folded(net, images, is_fused):
    net.act1 = ClippedReLU(16).eval()
    fused = Fused(net)
    torch.testing.assert_close(fused(10 * images), net(10 * images), rtol=1e-4, atol=1e-4)
    assert is_fused(fused) and not any(node.name == "act1" for conv in fused._form.convs for node in conv.nodes)


def test_an_added_parameter_is_no_skip(images, trained, logits_and_gradient):
    torch.manual_seed(0)
    net = trained(AddsParameter())
    for one, other in zip(logits_and_gradient(Fused(net), images), logits_and_gradient(net, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_unusual_layers_are_not_folded(images, trained, logits_and_gradient):
    torch.manual_seed(0)
    net = trained(UnusualLayers())
    fused = Fused(net)
    for one, other in zip(logits_and_gradient(fused, images), logits_and_gradient(net, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # its batch norms magnify rounding by 60
    assert [conv.conv for conv in fused._form.convs] == [net.convs[6], net.convs[7], net.last]
