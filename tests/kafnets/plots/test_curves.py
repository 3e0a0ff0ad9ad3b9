import math

import matplotlib
import numpy as np
import pytest
import torch

from kafnets.plots import plot_curves


def history(epochs):
    return [
        {
            "epoch": epoch,
            "train/loss": 2.0 - 0.1 * epoch,
            "val/loss": 1.8 - 0.1 * epoch,
            "val/robust_loss": 2.1 - 0.1 * epoch,
            "val/clean_accuracy": 0.4 + 0.05 * epoch,
            "val/robust_accuracy": 0.3 if epoch == 2 else 0.2,
            "lr": 0.1,
        }
        for epoch in range(epochs)
    ]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_curves_show_the_history(is_drawn):
    figure = plot_curves(history(5), objective="Adversarial-FGSM")
    loss, accuracy, rate = figure.axes
    assert set(lines(loss)) == {"training,\nAdversarial-FGSM", "validation, clean", "validation, attacked"}
    np.testing.assert_allclose(lines(loss)["validation, clean"].get_ydata(), [1.8, 1.7, 1.6, 1.5, 1.4])
    np.testing.assert_allclose(lines(loss)["validation, attacked"].get_ydata(), [2.1, 2.0, 1.9, 1.8, 1.7])
    for label, other in (("validation, clean", "clean"), ("validation, attacked", "robust")):
        assert lines(loss)[label].get_color() == lines(accuracy)[f"validation, {other}"].get_color()
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


def test_one_epoch_is_visible(is_drawn):
    figure = plot_curves(history(1))
    assert all(line.get_marker() != "none" for axes in figure.axes for line in axes.get_lines())
    low, high = figure.axes[0].get_xlim()
    assert low < 0 < high
    assert is_drawn(figure)


def test_values_may_be_missing(is_drawn):
    rows = history(5)
    rows[0]["val/loss"] = math.nan
    rows[1]["val/loss"] = None
    rows[2]["val/loss"] = ""
    rows[3]["val/loss"] = torch.tensor(0.5)
    del rows[4]["val/loss"]
    figure = plot_curves(rows)
    assert lines(figure.axes[0])["validation, clean"].get_xydata().tolist() == [[3.0, 0.5]]
    assert is_drawn(figure)


def test_rows_may_share_an_epoch_and_lack_a_rate(is_drawn):
    figure = plot_curves([{"epoch": "0", "train/loss": "2.0"}, {"epoch": "0", "val/loss": "1.5"}, {"lr": ""}])
    assert len(figure.axes) == 2
    assert len(figure.axes[0].get_lines()) == 2
    assert is_drawn(figure)


@pytest.mark.parametrize("rows", [[], [{}], [{"epoch": 0}], [{"epoch": math.nan, "lr": 0.1}]])
def test_an_empty_history_says_so(rows, is_drawn):
    figure = plot_curves(rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing logged"]
    assert is_drawn(figure)


def test_pyplot_keeps_no_figure():
    plot_curves(history(2))
    assert not getattr(matplotlib, "_pylab_helpers", None) or not matplotlib._pylab_helpers.Gcf.figs
