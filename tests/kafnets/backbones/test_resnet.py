import pytest
import torch
from torch import nn

from kafnets.activations import KAF, ReLU
from kafnets.backbones import ConvShortcut, PadShortcut, ResNet


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_of_the_paper(depth, millions):
    assert count(ResNet(depth=depth)) / 1e6 == pytest.approx(millions, rel=0.02)


def test_exact_parameters():
    assert count(ResNet()) == 269_722
    assert count(ResNet(shortcut=ConvShortcut)) == 272_474
    assert count(ResNet(activation=KAF)) == 269_722 + 20 * (7 * 16 + 6 * 32 + 6 * 64)


def test_pad_shortcut():
    x = torch.randn(2, 4, 6, 6)
    y = PadShortcut(4, 8)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()
    assert count(PadShortcut(4, 8)) == 0


def test_conv_shortcut():
    shortcut = ConvShortcut(4, 8)
    assert shortcut(torch.randn(2, 4, 6, 6)).shape == (2, 8, 3, 3)
    assert count(shortcut) == 32 + 16


def test_no_biases_and_defaults():
    net = ResNet()
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv2d))
    assert sum(isinstance(m, PadShortcut) for m in net.modules()) == 2
    assert sum(isinstance(m, ReLU) for m in net.modules()) == 19


def test_other_depths_name_the_nearest():
    with pytest.raises(ValueError, match="got 18; the nearest: 14 or 20"):
        ResNet(depth=18)
