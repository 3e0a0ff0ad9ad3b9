"""The learned activations of a network."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kafnets.analysis import ActivationShape
from kafnets.plots.style import BLUE, GREY, SHADE, SKY, new_figure, open_frame


def plot_activations(shapes: Sequence[ActivationShape]) -> Figure:
    """The learned activation of each layer, over the density of its pre-activations.

    Args:
        shapes: as :func:`kafnets.analysis.activation_shapes` returns them, at least one.

    Returns:
        A figure of one panel per layer: a thin line per channel, a thick one for their mean, and behind them, on a
        separate axis, the density of the layer's pre-activations. The y axis spans 99.8 % of the channels' values.

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
    figure = new_figure(max(2.3 * columns, 4.6), 1.8 * rows + 1.3)
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
        open_frame(each)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    axes.set_title(f"{shape.name} ({len(curves)} ch.)", fontsize=9)


def _limits(curves: np.ndarray) -> tuple[float, float]:
    finite = curves[np.isfinite(curves)]
    low, high = np.quantile(finite, (0.001, 0.999)) if finite.size else (0.0, 0.0)
    margin = 0.08 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
