"""The curves of one training run."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kafnets.plots.style import BLUE, GREY, INK, VERMILION, Row, new_figure, open_frame, show_message


def plot_curves(history: Sequence[Row], *, objective: str = "objective") -> Figure:
    """Loss, accuracy and learning rate over the epochs of one run, one panel above the other.

    Args:
        history: one row per epoch (several rows may share an epoch) with the keys ``epoch``, ``train/loss``,
            ``val/loss`` and ``val/robust_loss`` (cross-entropy on clean and on attacked images),
            ``val/clean_accuracy`` and ``val/robust_accuracy`` (both in [0, 1], drawn in %), ``lr``.
            Missing, empty and non-finite values are left out; the epoch of a row without ``epoch`` is its position.
        objective: what ``train/loss`` is; it is comparable with a validation loss only if it is the cross-entropy on
            the same kind of images.

    Returns:
        A figure of two panels, or three if a learning rate was logged. A star marks the epoch of the highest robust
        accuracy, the first one if several are equal.

    Example:
        >>> figure = plot_curves([{"epoch": 0, "train/loss": 2.1, "val/robust_accuracy": 0.25}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy, %']
    """
    rate = _series(history, "lr")
    ratios = [3, 3, 1.3] if len(rate) else [3, 3]
    figure = new_figure(8.0, 0.92 * sum(ratios) + 0.6)
    loss, accuracy, *rest = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    _draw_loss(loss, history, objective)
    _draw_accuracy(accuracy, history)
    for axes in rest:
        axes.plot(*rate.T, color=GREY, **_line(rate))
        axes.set_ylim(-0.08 * _top(rate), _top(rate))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        _finish(axes, "learning rate")
    bottom = figure.axes[-1]
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(_epochs(history)) == 1:
        (epoch,) = _epochs(history)
        bottom.set_xlim(epoch - 0.5, epoch + 0.5)
        bottom.set_xticks([epoch], [f"{epoch:.0f}"])
    figure.align_ylabels()
    return figure


def _draw_loss(axes: Axes, history: Sequence[Row], objective: str) -> None:
    label = "training,\n" + "\n".join(textwrap.wrap(objective, 22))
    _draw(axes, _series(history, "train/loss"), label=label, color=INK, linestyle="--")
    _draw(axes, _series(history, "val/loss"), label="validation, clean", color=BLUE)
    _draw(axes, _series(history, "val/robust_loss"), label="validation, attacked", color=VERMILION)
    _finish(axes, "loss")


def _draw_accuracy(axes: Axes, history: Sequence[Row]) -> None:
    clean, robust = (_series(history, f"val/{kind}_accuracy") * (1, 100) for kind in ("clean", "robust"))
    _draw(axes, clean, label="validation, clean", color=BLUE)
    _draw(axes, robust, label="validation, robust", color=VERMILION)
    if len(robust):
        epoch, best = robust[robust[:, 1].argmax()]
        label = f"most robust: {best:.1f} %\nin epoch {epoch:.0f}"
        star: dict[str, Any] = {"linestyle": "none", "marker": "*", "markersize": 13, "markeredgecolor": "white"}
        axes.plot([epoch], [best], color=VERMILION, label=label, **star)
    axes.set_ylim(0, min(100.0, _top(clean, robust)))
    _finish(axes, "accuracy, %")


def _draw(axes: Axes, series: np.ndarray, **style: Any) -> None:
    if len(series):
        axes.plot(*series.T, **_line(series), **style)


def _line(series: np.ndarray) -> dict[str, Any]:
    # Dots make short runs visible, even a single epoch; they would clutter long ones.
    return {"linewidth": 1.6, "marker": "o" if len(series) <= 30 else "none", "markersize": 3.5}


def _finish(axes: Axes, ylabel: str) -> None:
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    open_frame(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, borderaxespad=0.0)
    elif not axes.lines:
        show_message(axes, "nothing logged")
        axes.set_yticks([])


def _top(*series: np.ndarray) -> float:
    values = np.concatenate(series)[:, 1]
    return 1.12 * values.max() if len(values) and values.max() > 0 else 1.0


def _epochs(history: Sequence[Row]) -> set[float]:
    return {
        epoch for position, row in enumerate(history) if math.isfinite(epoch := _number(row.get("epoch", position)))
    }


def _series(history: Sequence[Row], key: str) -> np.ndarray:
    """Epoch and value of the K rows that have both, sorted by epoch, ``(K, 2)``."""
    points = [(_number(row.get("epoch", position)), _number(row.get(key))) for position, row in enumerate(history)]
    finite = [point for point in points if all(map(math.isfinite, point))]
    return np.array(sorted(finite), dtype=float).reshape(-1, 2)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):  # None, or the empty cell of a CSV file
        return math.nan
