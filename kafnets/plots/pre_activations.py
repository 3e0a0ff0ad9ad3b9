"""What the activation layers of a network receive, and their shapes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kafnets.plots.marks import plain_text
from kafnets.plots.style import BLUE, GREY, INK, SHADE, SKY, VERMILION, new_figure, open_frame


def plot_pre_activations(layers: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """The densities of each layer's inputs for clean and for attacked images, behind the activation's shape.

    Args:
        layers: ``layers`` of a record of :func:`kafnets.analysis.activation_study.activation_study`, at least one.
        title: written above, the name of the network.

    Returns:
        A figure of one panel per layer. Densities have an axis of their own without numbers.
    """
    columns = min(len(layers), 4)
    rows = math.ceil(len(layers) / columns)
    figure = new_figure(max(2.6 * columns, 5.0), 1.9 * rows + 1.2)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, layer in zip(panels, layers, strict=False):
        _draw(axes, layer)
    for axes in panels[columns * (rows - 1) : len(layers)]:
        axes.set_xlabel("pre-activation", fontsize=9)
    for axes in panels[len(layers) :]:
        axes.remove()
    figure.suptitle(plain_text(title, 90), fontsize=11)
    _legend(figure, layers, columns)
    return figure


def _legend(figure: Figure, layers: Sequence[Mapping[str, Any]], columns: int) -> None:
    shapes = [layer["shape"] for layer in layers if layer["shape"]]
    handles: list[Any] = [
        Patch(color=SHADE, label="density, clean images"),
        Line2D([], [], color=VERMILION, linewidth=1.2, label="density, attacked images"),
    ]
    if any(len(shape["y"]) > 1 for shape in shapes):
        handles.append(Line2D([], [], color=SKY, linewidth=1.0, label="activation of some channels"))
    if shapes:
        handles.append(Line2D([], [], color=BLUE, linewidth=2.0, label="activation, mean of channels"))
    if any(shape["start"] for shape in shapes):
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle="--", label="before training"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, columns), frameon=False, fontsize=9)


def _draw(axes: Axes, layer: Mapping[str, Any]) -> None:
    edges, shape = layer["density"]["edges"], layer["shape"]
    behind = axes.twinx()
    behind.stairs(layer["density"]["clean"], edges, fill=True, color=SHADE)
    behind.stairs(layer["density"]["attacked"], edges, color=VERMILION, linewidth=1.1)
    behind.set_ylim(0, 1.15 * max(*layer["density"]["clean"], *layer["density"]["attacked"], 1e-12))
    behind.set_yticks([])
    axes.set_xlim(edges[0], edges[-1])
    axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    if shape:
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)
        _draw_shape(axes, shape)
    else:
        axes.set_yticks([])
    for each in (axes, behind):
        open_frame(each)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=8)
    axes.set_title(plain_text(layer["name"], 34), fontsize=9)


def _draw_shape(axes: Axes, shape: Mapping[str, Any]) -> None:
    x = np.array(shape["x"])
    if len(shape["y"]) > 1:
        lines = [np.stack([x, np.array(y)], axis=-1) for y in shape["y"]]
        axes.add_collection(LineCollection(lines, colors=SKY, linewidths=0.8, alpha=0.8))
    axes.plot(x, shape["mean"], color=BLUE, linewidth=2.0)
    if shape["start"]:
        axes.plot(x, shape["start"], color=INK, linewidth=1.2, linestyle="--")
    values = np.array([*shape["y"], shape["mean"], *([shape["start"]] if shape["start"] else [])])
    margin = 0.08 * (values.max() - values.min()) or 0.5
    axes.set_ylim(values.min() - margin, values.max() + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4))
