import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.backbones.same_conv import SameConv2d


def test_stride_two_pads_bottom_and_right():
    conv = SameConv2d(1, 1, stride=2)
    nn.init.zeros_(conv.bias)
    nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, 0, 0] = 1.0  # picks each window's first pixel
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert conv(image).flatten().tolist() == [0.0, 2.0, 8.0, 10.0]
    conv.weight.data.zero_()[0, 0, 2, 2] = 1.0  # and its last
    assert conv(image).flatten().tolist() == [10.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("stride", [1, 2])
def test_edges_say_what_is_padded(stride):
    conv, x = SameConv2d(3, 5, stride=stride), torch.rand(2, 3, 8, 6)
    expected = F.conv2d(F.pad(x, conv.edges * 2), conv.weight, conv.bias, stride=stride)
    torch.testing.assert_close(conv(x), expected)
    assert conv(x).shape == (2, 5, 8 // stride, 6 // stride)
