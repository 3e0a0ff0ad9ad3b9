"""Figures of several networks over their layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, isinf

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from kafnets.plots.marks import Legends, Mark, add_legends, legend_width
from kafnets.plots.style import GREY, SHADE, new_figure, open_frame, show_message


@dataclass(frozen=True)
class Line:
    """The values of one network, one per layer.

    Attributes:
        mark: its look.
        values: one per layer; NaN where there is none, infinite ones are drawn at the upper edge.
        low, high: an interval of each; may be empty.
    """

    mark: Mark
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One figure of merit over the layers.

    Attributes:
        title: its name.
        lines: one per network.
        log: whether the axis is logarithmic.
        band: a range to shade.
    """

    title: str
    lines: Sequence[Line] = field(default_factory=list)
    log: bool = False
    band: tuple[float, float] | None = None


def plot_over_layers(panels: Sequence[Panel], names: Sequence[str], legends: Legends) -> Figure:
    """One panel per figure of merit, side by side, with the layers on the x axis.

    Args:
        panels: at least one.
        names: of the layers; empty if the networks have different ones, which are then numbered.
        legends: as :func:`kafnets.plots.marks.marks` returns them.

    Example:
        >>> figure = plot_over_layers([Panel("slope", [Line(Mark("a"), [1.0, 2.0])])], ["act1", "act2"], [])
        >>> [axes.get_title() for axes in figure.axes]
        ['slope']
    """
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    height = 2.7 * rows + 0.5
    figure = new_figure(4.0 * columns + legend_width(legends, height), height)
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flatten(), panels, strict=True):
        _draw(axes, panel, names)
    add_legends(figure, legends, lines=True)
    return figure


def _draw(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    values = [value for line in panel.lines for value in line.values]
    finite = [value for value in values if isfinite(value) and (value > 0 or not panel.log)]
    if panel.log and finite:
        _use_log_scale(axes, finite)
    for line in panel.lines:
        places = list(range(1, len(line.values) + 1))
        shown = [value if isfinite(value) and (value > 0 or not panel.log) else float("nan") for value in line.values]
        axes.plot(places, shown, linewidth=1.5, **line.mark.line() | line.mark.points(5))
        if line.low:
            axes.fill_between(places, line.low, line.high, color=line.mark.color, alpha=0.15, linewidth=0)
    if panel.band and finite:
        axes.axhspan(*panel.band, color=SHADE, zorder=0)
        axes.set_ylim(min(panel.band[0] / 2, axes.get_ylim()[0]), max(panel.band[1] * 2, axes.get_ylim()[1]))
    _draw_infinite(axes, panel)
    if not finite and not any(map(isinf, values)):
        show_message(axes, "none has it")
    if not panel.log:
        axes.set_ylim(min(0.0, *finite, 0.0), axes.get_ylim()[1] if any(finite) else 1.0)
    _finish(axes, panel, names)


def _use_log_scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(values) < 300 * min(values) else (1.0,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _draw_infinite(axes: Axes, panel: Panel) -> None:
    infinite = [line for line in panel.lines if any(isinf(value) for value in line.values)]
    for i, line in enumerate(infinite):
        places = [place for place, value in enumerate(line.values, 1) if isinf(value)]
        # below one another, so that networks with the same places are told apart
        height = 0.97 - 0.05 * i
        axes.plot(
            places, [height] * len(places), transform=axes.get_xaxis_transform(), clip_on=False,
            **line.mark.points(5) | {"linestyle": "none"},
        )  # fmt: skip
    if infinite:
        axes.text(1.01, 0.97, "∞", transform=axes.transAxes, va="center", fontsize=12, color=GREY)


def _finish(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.25)
    open_frame(axes)
    if names and len(names) <= 16:
        axes.set_xticks(range(1, len(names) + 1), list(names), rotation=35, ha="right", fontsize=8)
    else:
        axes.set_xlabel("activation layer", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
