"""Learned shapes, their ranges and densities, and the network unchanged."""

import copy
import sys

import pytest
import torch
from torch import nn

from kafnets import functional
from kafnets.activations import KAF, KWTA, Maxout, PReLU, ReLU, ResidualKAF
from kafnets.analysis import activation_shapes
from kafnets.backbones import KafVGG, LightNet


@pytest.fixture(name="net")
def fixture_net():
    torch.manual_seed(0)
    return KafVGG(width=4, hidden=8, image_size=8)


@pytest.fixture(name="images")
def fixture_images():
    return torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_names_shapes_and_order(net, images):
    shapes = activation_shapes(net, images, num_points=51, num_bins=20)
    assert [shape.name for shape in shapes] == [
        *(f"block{i}.act_{k}" for i in (1, 2, 3) for k in "ab"),
        "act",
    ]
    assert [tuple(shape.curves.shape) for shape in shapes] == [(c, 51) for c in (4, 4, 8, 8, 16, 16, 8)]
    for shape in shapes:
        assert shape.grid.shape == (51,)
        assert shape.bin_edges.shape == (21,)
        assert shape.density.shape == (20,)
        assert not shape.curves.requires_grad


def test_order_is_that_of_the_calls_not_of_the_definitions():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.unused = KAF(2), KAF(2), KAF(2)

        def forward(self, x):
            return self.last(self.first(x))

    assert [shape.name for shape in activation_shapes(Backwards(), torch.randn(9, 2))] == ["first", "last"]


def test_curves_are_the_activations(net, images):
    for shape in activation_shapes(net, images):
        layer = net.get_submodule(shape.name)
        column = shape.grid[:, None].expand(-1, layer.num_channels)
        expected = functional.kaf(column, layer.alpha, layer.dictionary, layer.bandwidth).T
        torch.testing.assert_close(shape.curves, expected.detach(), rtol=1e-4, atol=1e-5)


def test_density_and_range_are_those_of_the_pre_activations(net, images):
    shape = activation_shapes(net, images)[0]
    with torch.no_grad():
        z = net.eval().block1.bn_a(net.block1.conv_a(images)).flatten()
    low, high = torch.quantile(z, torch.tensor([0.001, 0.999])).tolist()
    torch.testing.assert_close((shape.grid[0].item(), shape.grid[-1].item()), (low, high))
    widths = shape.bin_edges.diff()
    assert (shape.density * widths).sum().item() == pytest.approx(1.0)
    inside = z[(z >= low) & (z <= high)]
    share = (inside < shape.bin_edges[30]).float().mean().item()
    assert (shape.density * widths)[:30].sum().item() == pytest.approx(share, abs=1e-3)


def test_the_network_is_unchanged(net, images):
    net.block1.bn_a.eval()  # a frozen layer must stay frozen
    modes = {name: module.training for name, module in net.named_modules()}
    state = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    activation_shapes(net, images)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_network_is_restored_after_an_error(net):
    with pytest.raises(ValueError, match="takes images of shape"):
        activation_shapes(net, torch.rand(2, 3, 4, 4))
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_nothing_trainable_gives_an_empty_list(images):
    assert activation_shapes(KafVGG(activation=ReLU, image_size=8, width=2), images) == []
    net = KafVGG(image_size=8, width=2)
    assert activation_shapes(net.requires_grad_(False), images) == []


def test_works_under_inference_mode(net, images):
    with torch.inference_mode():
        assert len(activation_shapes(net, images)) == 7


def test_large_layers_are_sampled(monkeypatch, net, images):
    everything = activation_shapes(net, images)[0]
    monkeypatch.setattr(sys.modules[activation_shapes.__module__], "SAMPLE", 2000)
    some = activation_shapes(net, images)[0]
    assert some.grid[-1].item() == pytest.approx(everything.grid[-1].item(), rel=0.3)
    assert torch.equal(some.density, activation_shapes(net, images)[0].density)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_constant_and_diverged_pre_activations(value):
    (shape,) = activation_shapes(nn.Sequential(KAF(2)), torch.full((4, 2), value))
    assert shape.grid[0] < shape.grid[-1]
    assert shape.density.isfinite().all()
    assert shape.curves.isfinite().all()


def test_compiled_networks_work(images):
    net = LightNet(activation=PReLU, image_size=8).eval()
    net.compile(backend="eager")
    with torch.no_grad():  # so that only the hooks could cause a second compilation
        net(images)
    assert len(activation_shapes(net, images)) == 5


@pytest.mark.parametrize("settings", [{"num_points": 1}, {"num_bins": 0}])
def test_bad_sizes(settings, net, images):
    with pytest.raises(ValueError, match="num_points must be >= 2 and num_bins >= 1"):
        activation_shapes(net, images, **settings)


def test_activations_without_a_shape_of_their_own_are_left_out():
    net = nn.Sequential(Maxout(3), KWTA(3), ResidualKAF(3, base=PReLU), Maxout(3, groups=3))
    shapes = activation_shapes(net, torch.randn(9, 3))
    assert [shape.name for shape in shapes] == ["2", "3"]
    column = shapes[0].grid[:, None].expand(-1, 3)
    torch.testing.assert_close(shapes[0].curves, net[2](column).T.detach())
