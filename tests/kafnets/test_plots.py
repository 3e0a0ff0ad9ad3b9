"""Pictures hold what they are given."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from kafnets.analysis import ActivationShape
from kafnets.plots import plot_activations, plot_curves


def history(epochs):
    return [
        {
            "epoch": epoch,
            "train/loss": 2.0 - 0.1 * epoch,
            "val/loss": 1.8 - 0.1 * epoch,
            "val/clean_accuracy": 0.4 + 0.05 * epoch,
            "val/robust_accuracy": 0.3 if epoch == 2 else 0.2,
            "lr": 0.1,
        }
        for epoch in range(epochs)
    ]


def shapes(count, channels=3):
    grid = torch.linspace(-2, 2, 11)
    curves = torch.randn(channels, 11)
    edges = torch.linspace(-2, 2, 5)
    return [ActivationShape(f"act{i}", grid, curves, edges, torch.full((4,), 0.25)) for i in range(count)]


def is_drawn(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 1


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_curves_hold_the_history():
    figure = plot_curves(history(5))
    loss, accuracy, rate = figure.axes
    assert set(lines(loss)) == {"train", "validation"}
    np.testing.assert_allclose(lines(loss)["validation"].get_ydata(), [1.8, 1.7, 1.6, 1.5, 1.4])
    np.testing.assert_allclose(lines(accuracy)["validation, clean"].get_ydata(), [40, 45, 50, 55, 60])
    np.testing.assert_allclose(rate.get_lines()[0].get_ydata(), [0.1] * 5)
    assert rate.get_xlabel() == "epoch"
    assert is_drawn(figure)


def test_a_star_marks_the_most_robust_epoch():
    (star,) = (line for line in plot_curves(history(5)).axes[1].get_lines() if line.get_marker() == "*")
    assert star.get_xydata().tolist() == [[2.0, 30.0]]
    assert star.get_label() == "most robust: 30.0 %\nin epoch 2"


def test_the_earliest_of_equally_robust_epochs_wins():
    (star,) = (line for line in plot_curves(history(2)).axes[1].get_lines() if line.get_marker() == "*")
    assert star.get_xdata()[0] == 0


def test_one_epoch_shows():
    figure = plot_curves(history(1))
    assert all(line.get_marker() != "none" for axes in figure.axes for line in axes.get_lines())
    low, high = figure.axes[0].get_xlim()
    assert low < 0 < high
    assert is_drawn(figure)


def test_values_may_be_missing():
    rows = history(5)
    rows[0]["val/loss"] = math.nan
    rows[1]["val/loss"] = None
    rows[2]["val/loss"] = ""
    rows[3]["val/loss"] = torch.tensor(0.5)
    del rows[4]["val/loss"]
    figure = plot_curves(rows)
    assert lines(figure.axes[0])["validation"].get_xydata().tolist() == [[3.0, 0.5]]
    assert is_drawn(figure)


def test_rows_may_share_an_epoch_and_lack_a_rate():
    figure = plot_curves([{"epoch": "0", "train/loss": "2.0"}, {"epoch": "0", "val/loss": "1.5"}, {"lr": ""}])
    assert len(figure.axes) == 2
    assert len(figure.axes[0].get_lines()) == 2
    assert is_drawn(figure)


@pytest.mark.parametrize("rows", [[], [{}], [{"epoch": 0}], [{"epoch": math.nan, "lr": 0.1}]])
def test_an_empty_history_says_so(rows):
    figure = plot_curves(rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing logged"]
    assert is_drawn(figure)


@pytest.mark.parametrize("count", [1, 2, 5, 7, 19])
def test_each_layer_has_a_panel_and_a_density(count):
    figure = plot_activations(shapes(count))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"act{i} (3 ch.)" for i in range(count)]
    assert len(figure.axes) == 2 * count
    assert is_drawn(figure)


def test_panels_hold_each_channel_and_the_mean():
    (shape,) = shapes(1)
    panel = plot_activations([shape]).axes[0]
    (channels,) = (artist for artist in panel.collections if isinstance(artist, LineCollection))
    assert len(channels.get_segments()) == 3
    np.testing.assert_allclose(channels.get_segments()[1][:, 1], shape.curves[1].numpy())
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), shape.curves.mean(0).numpy(), rtol=1e-5)
    assert panel.get_xlim() == (-2, 2)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_dead_and_diverged_layers_are_drawn(value):
    shape = shapes(1)[0]
    broken = ActivationShape("act", shape.grid, torch.full((3, 11), value), shape.bin_edges, torch.zeros(4))
    assert is_drawn(plot_activations([broken]))


def test_no_layers_is_an_error():
    with pytest.raises(ValueError, match="no trainable activation"):
        plot_activations([])


def test_pyplot_stays_out_of_it():
    plot_curves(history(2))
    assert not getattr(matplotlib, "_pylab_helpers", None) or not matplotlib._pylab_helpers.Gcf.figs
