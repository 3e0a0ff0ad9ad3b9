"""The loss around images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kafnets.plots.marks import plain_text
from kafnets.plots.style import INK, new_figure, show_message


def plot_loss_surfaces(surfaces: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Figure:
    """The mean loss of each network over steps along the gradient and along a random direction, with one scale.

    Args:
        surfaces: ``surface`` of records of :func:`kafnets.analysis.activation_study.activation_study`, at least one.
        labels: the name of each network.
    """
    columns = min(len(surfaces), 4)
    rows = -(-len(surfaces) // columns)
    figure = new_figure(2.7 * columns + 1.2, 2.5 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    values = [np.array([[float(value) for value in row] for row in surface["loss"]]) for surface in surfaces]
    finite = np.concatenate([each[np.isfinite(each)] for each in values] or [np.zeros(0)])
    levels = np.linspace(finite.min(), finite.max() + 1e-9, 13) if len(finite) else np.linspace(0, 1, 13)
    drawn = None
    for axes, surface, loss, label in zip(panels, surfaces, values, labels, strict=False):
        axes.set_title(plain_text(label, 38), fontsize=9)
        if not np.isfinite(loss).all():
            show_message(axes, "not finite")
            continue
        drawn = axes.contourf(surface["steps"], surface["steps"], loss.T, levels=levels, cmap="cividis")
        axes.contour(surface["steps"], surface["steps"], loss.T, levels=levels, colors=INK, linewidths=0.3)
        axes.plot([0], [0], marker="o", color="white", markersize=5, markeredgecolor=INK)
        axes.tick_params(labelsize=8)
    for axes in panels[len(surfaces) :]:
        axes.remove()
    figure.supxlabel("steps of eps along the gradient", fontsize=9)
    figure.supylabel("steps of eps, random", fontsize=9)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=list(panels[: len(surfaces)]), shrink=0.85, format="%.2g")
        bar.set_label("mean cross-entropy", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def plot_alignment(values: Sequence[Sequence[float]], labels: Sequence[str], colors: Sequence[str]) -> Figure:
    """The gradient alignment of the images: median, quartiles and the range of the middle 90 %, one row per network.

    Args:
        values: the cosines of each network's images, in [-1, 1].
        labels: the name of each network.
        colors: the colour of each network.
    """
    figure = new_figure(6.2, 0.42 * len(values) + 1.1)
    axes = figure.subplots()
    for place, (each, color) in enumerate(zip(values, colors, strict=True)):
        if not each:
            axes.text(0, place, "no gradient", va="center", ha="center", fontsize=8)
            continue
        low, first, middle, third, high = np.quantile(each, (0.05, 0.25, 0.5, 0.75, 0.95))
        axes.plot([low, high], [place, place], color=color, linewidth=1.2)
        axes.plot([first, third], [place, place], color=color, linewidth=6, solid_capstyle="butt")
        axes.plot([middle], [place], marker="|", markersize=12, markeredgewidth=2, color=INK)
    axes.set_yticks(range(len(values)), [plain_text(label, 44) for label in labels], fontsize=8)
    axes.set_ylim(len(values) - 0.5, -0.5)
    lowest = min((float(np.quantile(each, 0.05)) for each in values if each), default=0.0)
    axes.set_xlim(min(0.9, math.floor(10 * lowest) / 10), 1.005)
    axes.set_xlabel("cosine of the two gradients", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(alpha=0.25, axis="x")
    return figure
