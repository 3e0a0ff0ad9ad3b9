import math

import numpy as np
import pytest
import torch
from torch import nn

from kafnets.activations import KAF, ReLU
from kafnets.backbones import KafResNet
from kafnets.backbones.kafresnet import KafBlock


def test_activations_and_blocks_of_depth_20():
    net = KafResNet(depth=20, activation=KAF, num_classes=10)
    assert sum(isinstance(module, KAF) for module in net.modules()) == 19
    assert net.block_names == [f"block{stage}_{k}" for stage in (1, 2, 3) for k in (1, 2, 3)]


@pytest.mark.parametrize(("depth", "blocks"), [(20, 9), (56, 27), (110, 54)])
def test_depths(depth, blocks):
    net = KafResNet(depth=depth, activation=ReLU)
    assert sum(isinstance(module, KafBlock) for module in net.modules()) == blocks
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len([name for name in names if "conv_skip" not in name]) == depth
    assert [name for name in names if "conv_skip" in name] == ["block2_1.conv_skip", "block3_1.conv_skip"]


def test_other_depths_name_the_nearest():
    with pytest.raises(ValueError, match=r"got 22; the nearest: 20 or 26"):
        KafResNet(depth=22)


def test_parameters():
    net = KafResNet(activation=ReLU)
    convolutions = 3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64 + 16 * 32 + 32 * 64
    biases = 16 * 7 + 32 * 7 + 64 * 7
    norms = 2 * (16 * 7 + 32 * 6 + 64 * 6)
    assert sum(p.numel() for p in net.parameters()) == 9 * convolutions + biases + norms + 650


def test_settings():
    net = KafResNet()
    assert {(m.eps, m.momentum) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 0.01)}
    for layer in (m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        area = layer.weight[0, 0].numel()
        bound = math.sqrt(6 / (area * (layer.weight.shape[0] + layer.weight.shape[1])))
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


def test_block_normalises_after_the_addition():
    torch.manual_seed(0)
    block = KafBlock(2, 4, stride=2, activation=ReLU, bn_momentum=0.01)
    x = torch.randn(8, 2, 4, 4)
    y = block.conv_b(block.bn_a(block.conv_a(x)).relu()) + block.conv_skip(x)
    y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(block(x), y.relu(), rtol=1e-4, atol=1e-5)


def test_running_statistics_move_by_one_hundredth():
    net = KafResNet(depth=8, width=2, image_size=4, activation=ReLU)
    x = torch.rand(16, 3, 4, 4)
    net(x)
    expected = 0.01 * net.conv1(x).mean((0, 2, 3))
    np.testing.assert_allclose(net.bn1.running_mean.numpy(), expected.detach().numpy(), rtol=1e-4)
