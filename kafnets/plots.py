"""Pictures of what training and analysis return: one function per picture; saving is the caller's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kafnets.analysis.activation_shapes import ActivationShape

# Okabe and Ito's palette: told apart by the colour-blind, and in grey.
BLUE, VERMILION, SKY, INK, GREY, SHADE = "#0072B2", "#D55E00", "#56B4E9", "#222222", "#666666", "#DDDDDD"

Row = Mapping[str, Any]


def plot_curves(history: Sequence[Row]) -> Figure:
    """Loss, accuracy and learning rate over the epochs of one run, stacked over one time axis.

    Args:
        history: one row an epoch (several rows may share one), read by the keys ``epoch``, ``train/loss``,
            ``val/loss``, ``val/clean_accuracy`` and ``val/robust_accuracy`` (both in [0, 1], drawn in %), ``lr``.
            Missing, empty and non-finite values are left out; a row without ``epoch`` counts as its position.

    Returns:
        A figure of two panels, three where a learning rate was logged. A star marks the epoch of the highest robust
        accuracy, the earliest one of equals.

    Example:
        >>> figure = plot_curves([{"epoch": 0, "train/loss": 2.1, "val/robust_accuracy": 0.25}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy, %']
    """
    rate = _series(history, "lr")
    ratios = [3, 3, 1.3] if len(rate) else [3, 3]
    figure = _figure(8.0, 0.92 * sum(ratios) + 0.6)
    loss, accuracy, *rest = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    _draw_loss(loss, history)
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


def plot_activations(shapes: Sequence[ActivationShape]) -> Figure:
    """What each layer's activation has become, over the density of what it is fed.

    Args:
        shapes: as :func:`kafnets.analysis.activation_shapes` returns them, at least one.

    Returns:
        A figure of one panel a layer: a thin line for each channel, a thick one for their mean, and behind them, on an
        axis of its own, the density of the layer's pre-activations. The y axis spans 99.8 % of the channels' values.

    Raises:
        ValueError: if ``shapes`` is empty.

    Example:
        >>> import torch
        >>> grid = torch.linspace(-2, 2, 5)
        >>> shape = ActivationShape("act1", grid, grid.relu().expand(3, 5), torch.tensor([-2.0, 2.0]), torch.ones(1))
        >>> len(plot_activations([shape]).axes)  # the curves and the density
        2
    """
    if not shapes:
        raise ValueError("there is no trainable activation to draw; call plot_activations only for a non-empty list")
    columns = min(len(shapes), 5 if len(shapes) > 8 else 4)
    rows = math.ceil(len(shapes) / columns)
    figure = _figure(max(2.3 * columns, 4.6), 1.8 * rows + 1.3)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, shape in zip(panels, shapes, strict=False):
        _draw_shape(axes, shape)
    for axes in panels[columns * (rows - 1) : len(shapes)]:
        axes.set_xlabel("pre-activation", fontsize=9)
    for axes in panels[len(shapes) :]:
        axes.remove()
    figure.suptitle("Learned activations, layer by layer", fontsize=12)
    figure.supylabel("activation", fontsize=10)
    handles = [
        Line2D([], [], color=SKY, linewidth=1.0, label="each channel"),
        Line2D([], [], color=BLUE, linewidth=2.2, label="mean of the channels"),
        Patch(color=SHADE, label="density of the pre-activations"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if columns > 2 else 1, frameon=False, fontsize=9)
    return figure


def _figure(width: float, height: float) -> Figure:
    # The object-oriented interface: pyplot would keep every figure of a long run alive.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_loss(axes: Axes, history: Sequence[Row]) -> None:
    train, val = _series(history, "train/loss"), _series(history, "val/loss")
    _draw(axes, train, label="train", color=INK, linestyle="--")
    _draw(axes, val, label="validation", color=INK)
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
    # Dots keep short runs visible, a single epoch above all, and would clutter long ones.
    return {"linewidth": 1.6, "marker": "o" if len(series) <= 30 else "none", "markersize": 3.5}


def _finish(axes: Axes, ylabel: str) -> None:
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, borderaxespad=0.0)
    elif not axes.lines:
        axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])


def _top(*series: np.ndarray) -> float:
    values = np.concatenate(series)[:, 1]
    return 1.12 * values.max() if len(values) and values.max() > 0 else 1.0


def _epochs(history: Sequence[Row]) -> set[float]:
    return {
        epoch for position, row in enumerate(history) if math.isfinite(epoch := _number(row.get("epoch", position)))
    }


def _series(history: Sequence[Row], key: str) -> np.ndarray:
    """``(K, 2)``: epoch and value of the K rows that have both, by epoch."""
    points = [(_number(row.get("epoch", position)), _number(row.get(key))) for position, row in enumerate(history)]
    finite = [point for point in points if all(map(math.isfinite, point))]
    return np.array(sorted(finite), dtype=float).reshape(-1, 2)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):  # None, or the empty cell of a CSV file
        return math.nan


def _draw_shape(axes: Axes, shape: ActivationShape) -> None:
    grid, curves = shape.grid.numpy(), shape.curves.numpy()
    behind = axes.twinx()
    behind.stairs(shape.density.numpy(), shape.bin_edges.numpy(), fill=True, color=SHADE)
    behind.set_ylim(0, 1.15 * max(float(shape.density.max()), 1e-12))
    behind.set_yticks([])
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    opacity = min(0.8, max(0.25, 12 / len(curves)))
    lines = np.stack([np.broadcast_to(grid, curves.shape), curves], axis=-1)
    axes.add_collection(LineCollection(list(lines), colors=SKY, linewidths=0.7, alpha=opacity))
    axes.plot(grid, curves.mean(axis=0), color=BLUE, linewidth=2.0)
    axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(*_limits(curves))
    for each in (axes, behind):
        each.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    axes.set_title(f"{shape.name} ({len(curves)} ch.)", fontsize=9)


def _limits(curves: np.ndarray) -> tuple[float, float]:
    finite = curves[np.isfinite(curves)]
    low, high = np.quantile(finite, (0.001, 0.999)) if finite.size else (0.0, 0.0)
    margin = 0.08 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
