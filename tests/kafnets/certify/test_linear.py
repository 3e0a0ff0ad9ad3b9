"""Bounds by linear relaxation, beside intervals and what attacks find; random images are in test_intervals.py."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.activations import KAF, LeakyReLU, ReLU, Ridge, SiLU
from kafnets.attacks import PGD
from kafnets.certify import IntervalBounds, LinearBounds, LinearRelaxation
from kafnets.certify.boxes import Box
from kafnets.certify.lines import Relaxation
from kafnets.threat import ThreatModel


def test_a_linear_network_of_several_layers_is_exact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 7), nn.Linear(7, 3)).eval()
    x = torch.full((1, 1, 4, 4), 0.5)
    (jacobian,) = torch.autograd.functional.jacobian(lambda x: net(x)[0], x).double().flatten(1).abs().sum(1)[None]
    low, high = LinearBounds(net)(x, 0.1)
    with torch.no_grad():
        z = net.double()(x.double())
    assert torch.allclose(high - z, 0.1 * jacobian, rtol=1e-5) and torch.allclose(z - low, 0.1 * jacobian, rtol=1e-5)
    wide_low, wide_high = IntervalBounds(net)(x, 0.1)
    assert ((wide_high - wide_low) > 1.5 * (high - low)).all()


def test_two_relus_by_hand():
    """``relu(x - 0.5) + relu(0.5 - x)`` and their difference, for x in [0, 1]."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), ReLU(2), nn.Linear(2, 2, bias=False))
    net[1].weight.data[:], net[1].bias.data[:] = torch.tensor([[1.0], [-1.0]]), torch.tensor([-0.5, 0.5])
    net[3].weight.data[:] = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    low, high = LinearBounds(net)(torch.full((1, 1, 1, 1), 0.5), 0.5)
    # above lie the chords 0.5 (z + 0.5), whose sum is 0.5, below is 0; the difference is at most one chord
    assert low[0].tolist() == pytest.approx([0.0, -0.5], abs=1e-6)
    assert high[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


@pytest.mark.parametrize(
    "activation", [ReLU, SiLU, partial(LeakyReLU, negative_slope=0.2), partial(KAF, init=Ridge(F.elu))]
)
def test_lines_enclose_the_activation_and_touch_it(activation):
    torch.manual_seed(0)
    layer = activation(3).double()
    middle, radius = 4 * torch.randn(50, 3).double(), 10.0 ** torch.empty(50, 3).double().uniform_(-12, 0.7)
    box = Box(middle - radius, middle + radius)
    with torch.no_grad():
        lines = Relaxation(layer, None)(box)
        x = box.low + torch.linspace(0, 1, 997).double()[:, None, None] * (box.high - box.low)
        y = layer(x.flatten(0, 1)).view_as(x)
    below, above = y - (lines.low_slope * x + lines.low_offset), lines.high_slope * x + lines.high_offset - y
    assert (below >= 0).all() and (above >= 0).all()
    size = 1 + y.abs().amax(0)
    assert (below.amin(0) < 0.02 * size).all() and (above.amin(0) < 0.02 * size).all()


@pytest.mark.parametrize("activation", [ReLU, partial(KAF, init=Ridge(F.elu))])
def test_certified_images_resist_attacks_and_are_more_than_those_of_intervals(activation):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        activation(4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 16),
        activation(16),
        nn.Linear(16, 3),
    )
    x, eps = torch.rand(40, 1, 8, 8), 0.02
    with torch.no_grad():
        y = net(x).argmax(1)
    linear, interval = LinearBounds(net).certified(x, y, eps), IntervalBounds(net).certified(x, y, eps)
    x_adv = PGD(steps=20).within(ThreatModel(eps=eps))(net, x, y)
    with torch.no_grad():
        right = net(x_adv).argmax(1) == y
    assert (linear <= right).all() and (interval <= linear).all() and linear.sum() > interval.sum()
    certified = LinearRelaxation().of(net, [eps, 2 * eps])(x, y, torch.arange(40))
    assert torch.equal(certified[:, 0], linear) and (certified[:, 1] <= certified[:, 0]).all()


def test_maxima_over_windows_that_overlap():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, stride=1, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
    )
    x, eps = torch.rand(4, 1, 8, 8), 0.03
    low, high = LinearBounds(net)(x, eps)
    noise = torch.rand(500, *x.shape).mul(2).sub(1)
    with torch.no_grad():
        z = net((x + eps * noise).clamp(0, 1).flatten(0, 1)).view(500, 4, 3)
    assert (low <= z).all() and (z <= high).all()
    wide_low, wide_high = IntervalBounds(net)(x, eps)
    assert (low >= wide_low).all() and (high <= wide_high).all() and (high - low < wide_high - wide_low).any()


def test_a_sum_that_repeats_a_term_is_refused():
    class Repeats(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.flat = nn.AvgPool2d(4), nn.Flatten()

        def forward(self, x):
            return self.flat(x + self.mean(x))

    with pytest.raises(ValueError, match=r"repeats one of its terms, .* \(1, 4, 4\) and \(1, 1, 1\)"):
        LinearBounds(Repeats())(torch.rand(1, 1, 4, 4), 0.1)
