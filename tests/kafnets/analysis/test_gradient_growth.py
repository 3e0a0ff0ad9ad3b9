"""Growth of gradients: what is measured, what is predicted, and the explosion of the thesis's deep KAF networks."""

from functools import partial

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, LimitedGrowth, ReLU, ResidualKAF, SiLU
from kafnets.analysis.gradient_growth import (
    Moments,
    gradient_growth,
    growth_of_blocks_without_norm,
    growth_of_chain,
    growth_of_he_blocks,
    growth_of_kaf_blocks,
    growth_without_norm,
    he_moments,
)
from kafnets.backbones import KafResNet, ResNet

EXPLODED, SOUND = 1e5, 100.0  # gradient norm of the first kernel, at initialisation


def batch(count=16, size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=generator), torch.arange(count) % 10


def network(activation, depth, **settings):
    torch.manual_seed(0)
    return KafResNet(**{"depth": depth, "activation": activation, "width": 8, "image_size": 8} | settings)


class Chain(nn.Sequential):
    """Layers conv - BN - f, without skips."""

    def __init__(self, activation, layers=12, width=64):
        torch.manual_seed(0)
        convs = [nn.Conv2d(width if i else 3, width, 3, padding=1, bias=False) for i in range(layers)]
        blocks = [nn.Sequential(conv, nn.BatchNorm2d(width), activation(width)) for conv in convs]
        super().__init__(*blocks, nn.Flatten(), nn.Linear(64 * width, 10))


@pytest.mark.parametrize("kind", ["thesis", "default"])
def test_deep_kaf_networks_explode_at_the_start_as_the_thesis_had_them_and_not_by_default(kind):
    activation = KAF if kind == "thesis" else ResidualKAF
    found = gradient_growth(network(activation, 56), *batch())
    first, growth = found.kernels["conv1"], found.per_layer
    assert (first > EXPLODED and growth > 1.3) if kind == "thesis" else (first < SOUND and growth < 1.1)


def test_a_start_of_limited_growth_does_not_explode_either():
    found = gradient_growth(network(partial(KAF, init=LimitedGrowth()), 56), *batch())
    assert found.kernels["conv1"] < SOUND


def test_it_measures_what_autograd_finds_and_leaves_the_network_as_it_was():
    net, (x, y) = network(SiLU, 8), batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = gradient_growth(net, x, y)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters()) and net.training
    nn.functional.cross_entropy(net(x), y).backward()
    for name, norm in found.kernels.items():
        assert norm == pytest.approx(net.get_submodule(name).weight.grad.norm().item(), rel=1e-3)
    assert [signal.name for signal in found.activations][:3] == ["act1", "block1_1.act_a", "block1_1.act_out"]


@pytest.mark.parametrize("activation", [ReLU, SiLU, KAF], ids=lambda one: one.__name__)
def test_a_chain_grows_as_its_own_moments_predict(activation):
    found = gradient_growth(Chain(activation), *batch(64))
    assert growth_of_chain(found.moments) == pytest.approx(found.per_layer, rel=0.1)
    assert found.alignment == pytest.approx(1, rel=0.1)


def test_predictions_for_normal_inputs():
    relu = Moments(0.5, 0.5 - 1 / (2 * torch.pi))
    assert Moments.of(ReLU(1)) == pytest.approx(relu, rel=1e-5)
    ratio = relu.squared_slope / relu.variance
    assert growth_of_chain([relu] * 4) == pytest.approx(ratio**0.5)
    assert growth_of_kaf_blocks([relu] * 5) == pytest.approx((ratio * (1 + ratio) / 2) ** 0.25)
    assert growth_without_norm([relu] * 4, gain=2) == pytest.approx(1)
    assert growth_of_blocks_without_norm([relu] * 3, gain=2) == pytest.approx(1.5**0.25)
    last = he_moments(ReLU(1), 1)[-1]  # a normal variable plus the output of a ReLU
    mean, std = 1 / (2 * torch.pi) ** 0.5, (1 + relu.variance) ** 0.5
    assert last.squared_slope == pytest.approx(torch.special.ndtr(torch.tensor(mean / std)).item(), rel=1e-3)
    assert growth_of_he_blocks([relu] * 3) == pytest.approx((0.5 * (1 + ratio / relu.variance)) ** 0.25, rel=1e-5)


@pytest.mark.parametrize("backbone", [KafResNet, ResNet])
def test_blocks_with_a_last_layer_of_zeros_begin_as_their_skips(backbone):
    net = backbone(depth=8, width=4, image_size=8, zero_last=True)
    block = net.block1_1 if backbone is KafResNet else net.stage1[0]
    x = torch.rand(4, 4, 8, 8)
    expected = block.act_out(block.bn_out(x)) if backbone is KafResNet else block.act2(x)
    assert torch.equal(block(x), expected)


def test_what_has_no_growth_is_refused():
    with pytest.raises(ValueError, match="the network calls 0 of them"):
        gradient_growth(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), *batch())
    found = gradient_growth(network(KWTA, 8), *batch())
    with pytest.raises(TypeError, match=r"each output of act1, block1_1.act_a, .* depends on many"):
        _ = found.moments
