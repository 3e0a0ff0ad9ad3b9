import math

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, ReLU
from kafnets.backbones import KafVGG


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameters():
    kernels = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 2048 * 128 + 128 * 10
    biases = 2 * (32 + 64 + 128) + 128 + 10
    norms = 2 * 2 * (32 + 64 + 128)
    assert count(KafVGG(activation=ReLU)) == kernels + biases + norms
    assert count(KafVGG(activation=KAF)) == kernels + biases + norms + 20 * (2 * (32 + 64 + 128) + 128)


def test_settings():
    net = KafVGG()
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.25, 0.3, 0.4]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [32, 32, 64, 64, 128, 128]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert sum(isinstance(m, KAF) for m in net.modules()) == 7
    assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_kernels_are_he_uniform():
    for layer in (m for m in KafVGG().modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        bound = math.sqrt(6 / layer.weight[0].numel())
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


def test_the_graph_of_layers():
    torch.manual_seed(0)
    net = KafVGG(image_size=8, width=4, hidden=6, activation=ReLU).eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.rand(2, 3, 8, 8)
    y = x
    for block in (net.block1, net.block2, net.block3):
        y = block.bn_a(block.conv_a(y)).relu()
        y = block.bn_b(block.conv_b(y)).relu()
        y = nn.functional.max_pool2d(y, 2)
    torch.testing.assert_close(net(x), net.fc(net.dense(y.flatten(1)).relu()))


def test_the_normalised_head():
    net = KafVGG(activation=ReLU, head_norm=True)
    assert count(net) == count(KafVGG(activation=ReLU)) + 2 * 128
    heard = []
    net.act.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    net(torch.rand(16, 3, 32, 32))
    torch.testing.assert_close(heard[0].mean(0), torch.zeros(128), atol=1e-5, rtol=0)
    assert 0.9 < heard[0].std() < 1.1


def test_digits():
    net = KafVGG(in_channels=1, image_size=8)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_random_in_training_only(training):
    torch.manual_seed(0)
    net = KafVGG(image_size=8).train(training)
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(net(x), net(x)) is not training
