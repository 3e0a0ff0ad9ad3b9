"""The picture of gradients and activations in every layer along a training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from kafnets.plots.style import GREY, Row, new_figure, show_message

TICKS = 8  # layers that are named
PANELS = {"gradients": "gradient of each kernel, L2 norm", "activations": "output of each activation, RMS"}


def plot_layer_norms(
    rows: Sequence[Row], *, title: str = "", limits: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Heat maps, layer x step, of the gradients of kernels and the outputs of activations, on logarithmic scales.

    Args:
        rows: each with ``step``, and with the dictionaries ``gradients`` and ``activations``, the norms of every layer
            by name, in the order of the layers from the input on. Values that are 0, None or not finite stay grey.
        title: a headline.
        limits: the lowest and the highest value of the colours of ``gradients`` or ``activations``, if several pictures
            should share them; otherwise those of the rows.

    Example:
        >>> row = {"step": 0, "gradients": {"conv1": 1e8, "fc": 0.1}, "activations": {"act1": 1.0}}
        >>> [axes.get_title() for axes in plot_layer_norms([row]).axes[:2]]
        ['gradient of each kernel, L2 norm', 'output of each activation, RMS']
    """
    figure = new_figure(9.0, 3.8)
    for axes, (key, name) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        axes.set_title(name, fontsize=10)
        _draw(figure, axes, rows, key, (limits or {}).get(key))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw(figure: Figure, axes: Axes, rows: Sequence[Row], key: str, limits: tuple[float, float] | None) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row[key]))
    values = np.array([[_number(row[key].get(name)) for row in rows] for name in names], dtype=float)
    if not np.isfinite(values).any():
        show_message(axes, "nothing finite was measured")
        return
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    norm = LogNorm(low, high if high > low else 1.01 * low)
    axes.set_facecolor(GREY)
    image = axes.imshow(values, aspect="auto", norm=norm, cmap="viridis", interpolation="nearest")
    shown = np.unique(np.linspace(0, len(names) - 1, min(TICKS, len(names))).round().astype(int))
    axes.set_yticks(shown, [names[i] for i in shown], fontsize=7)
    shown = np.unique(np.linspace(0, len(rows) - 1, min(6, len(rows))).round().astype(int))
    axes.set_xticks(shown, [str(rows[i]["step"]) for i in shown], fontsize=8)
    axes.set_xlabel("step")
    figure.colorbar(image, ax=axes)


def _number(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) and value > 0 else math.nan
