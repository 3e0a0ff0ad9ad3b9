import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from kafnets.analysis import ActivationShape
from kafnets.plots import plot_activations


def shapes(count, channels=3):
    grid = torch.linspace(-2, 2, 11)
    curves = torch.randn(channels, 11)
    edges = torch.linspace(-2, 2, 5)
    return [ActivationShape(f"act{i}", grid, curves, edges, torch.full((4,), 0.25)) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 7, 19])
def test_each_layer_has_a_panel_and_a_density(count, is_drawn):
    figure = plot_activations(shapes(count))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"act{i} (3 ch.)" for i in range(count)]
    assert len(figure.axes) == 2 * count
    assert is_drawn(figure)


def test_panels_show_each_channel_and_the_mean():
    (shape,) = shapes(1)
    panel = plot_activations([shape]).axes[0]
    (channels,) = (artist for artist in panel.collections if isinstance(artist, LineCollection))
    assert len(channels.get_segments()) == 3
    np.testing.assert_allclose(channels.get_segments()[1][:, 1], shape.curves[1].numpy())
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), shape.curves.mean(0).numpy(), rtol=1e-5)
    assert panel.get_xlim() == (-2, 2)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_dead_and_diverged_layers_are_drawn(value, is_drawn):
    shape = shapes(1)[0]
    broken = ActivationShape("act", shape.grid, torch.full((3, 11), value), shape.bin_edges, torch.zeros(4))
    assert is_drawn(plot_activations([broken]))


def test_no_layers_is_an_error():
    with pytest.raises(ValueError, match="no trainable activation"):
        plot_activations([])
