"""Bounds over the range of the inputs, and means under their density."""

import math

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, Activation, Normal, ReLU, Ridge, SiLU
from kafnets.analysis.activation_drift import drift, known_starts
from kafnets.analysis.smoothness import smoothness


def even(low, high, bins, channels=1):
    return torch.linspace(low, high, bins + 1, dtype=torch.float64), torch.ones(channels, bins, dtype=torch.float64)


def test_the_mean_of_the_squared_curvature_is_that_of_the_density():
    edges, counts = even(-3, 3, 2048)
    counts = torch.exp(-(((edges[1:] + edges[:-1]) / 2) ** 2) / 2)[None]
    x = torch.linspace(-3, 3, 200_001, dtype=torch.float64)
    s = x.sigmoid()
    second = s * (1 - s) * (2 + x * (1 - 2 * s))
    weight = torch.exp(-(x**2) / 2)
    found = smoothness(SiLU(1), edges, counts)
    assert found.squared_curvature == pytest.approx(float((second**2 * weight).sum() / weight.sum()), rel=1e-3)
    assert found.curvature.item() == pytest.approx(0.5, rel=1e-3)


def test_a_kink_counts_only_if_it_lies_among_the_inputs():
    assert smoothness(ReLU(1), *even(-1, 1, 4)).squared_curvature == math.inf
    assert smoothness(ReLU(1), *even(1, 2, 4)).squared_curvature == 0


def test_the_band_is_about_each_channel():
    layer = KAF(3, init=Normal(std=0.0))
    # one Gaussian of weight a has max|f''| = 2 gamma a at its middle
    with torch.no_grad():
        layer.alpha[:, 10] = torch.tensor([2.0, 5.0, 20.0]) / (2 * layer.bandwidth)
    found = smoothness(layer, *even(-3, 3, 64, channels=3))
    assert found.curvature.tolist() == pytest.approx([2, 5, 20], rel=0.02)
    assert found.share_in_band == pytest.approx(1 / 3)


def test_layers_without_bounds_have_no_smoothness():
    class Cube(Activation):
        def forward(self, x):
            return x**3

    assert smoothness(KWTA(1), *even(-1, 1, 4)) is None and smoothness(Cube(1), *even(-1, 1, 4)) is None


def test_starts_are_known_only_where_they_are_not_random():
    def build():
        return nn.Sequential(KAF(2, init=Ridge(torch.tanh)), KAF(2), ReLU(2))

    starts = known_starts(build(), build())
    assert list(starts) == ["0"]
    edges, counts = even(-1, 1, 8, channels=2)
    assert drift(build()[0], starts["0"], edges, counts) == 0
