"""Pictures that compare several groups of training runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kafnets.plots.marks import Legends, Mark, add_legends, legend_width
from kafnets.plots.style import GREY, INK, VERMILION, new_figure, open_frame, show_message

Interval = tuple[float, float, float]  # low, middle, high


@dataclass(frozen=True)
class Point:
    """A group's clean and robust accuracy.

    Attributes:
        mark: its look.
        clean, robust: low, middle and high, in [0, 1].
        claimed: what others have claimed for it, clean and robust, in [0, 1]; None if nothing.
        doubted: whether a sanity check complains, or its training collapsed.
    """

    mark: Mark
    clean: Interval
    robust: Interval
    claimed: tuple[float, float] | None = None
    doubted: bool = False


def plot_clean_against_robust(
    points: Sequence[Point], legends: Legends, *, robust: str = "robust accuracy", claim: str = "claimed"
) -> Figure:
    """Robust against clean accuracy, with a cross for the intervals of each group.

    Args:
        points: one per group.
        legends: as :func:`kafnets.plots.marks.marks` returns them.
        robust: what the robust accuracy is.
        claim: whose claims the grey markers are.

    Example:
        >>> point = Point(Mark("KAF"), (0.7, 0.75, 0.8), (0.3, 0.35, 0.4), claimed=(0.78, 0.52))
        >>> plot_clean_against_robust([point], [("", [point.mark])]).axes[0].get_xlabel()
        'clean accuracy, %'
    """
    shown = _with_extras(points, legends, claim)
    figure = new_figure(6.6 + legend_width(shown, 5.2), 5.2)
    axes = figure.subplots()
    for point in points:
        if point.claimed:
            _draw_claim(axes, point)
    for point in points:
        _draw_cross(axes, point)
    axes.set_xlabel("clean accuracy, %")
    axes.set_ylabel(f"{robust}, %")
    axes.margins(0.08)
    axes.grid(alpha=0.25)
    open_frame(axes)
    if not points:
        show_message(axes, "nothing measured")
    add_legends(figure, shown)
    return figure


def _with_extras(points: Sequence[Point], legends: Legends, claim: str) -> Legends:
    extra = []
    if any(point.claimed for point in points):
        extra.append(Mark(claim, GREY, "white", "o"))
    if any(point.doubted for point in points):
        extra.append(Mark("check complains, or collapse", VERMILION, "white", "o"))
    return [*legends, ("also shown", extra)] if extra else list(legends)


def _draw_cross(axes: Axes, point: Point) -> None:
    x, y = (100 * interval[1] for interval in (point.clean, point.robust))
    key: Any = {"gid": point.mark.key or None}
    for xs, ys in (
        ([100 * point.clean[0], 100 * point.clean[2]], [y, y]),
        ([x, x], [100 * point.robust[0], 100 * point.robust[2]]),
    ):
        axes.plot(xs, ys, color=point.mark.color, linewidth=1.1, alpha=0.75, solid_capstyle="butt", **key)
    if point.doubted:
        ring: Any = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot([x], [y], markeredgecolor=VERMILION, markeredgewidth=1.4, **ring, **key)
    axes.plot([x], [y], linestyle="none", **point.mark.points(8))


def _draw_claim(axes: Axes, point: Point) -> None:
    assert point.claimed
    x, y = (100 * value for value in point.claimed)
    key: Any = {"gid": point.mark.key or None}
    axes.plot([x, 100 * point.clean[1]], [y, 100 * point.robust[1]], color="#BBBBBB", linewidth=0.8, zorder=0.5, **key)
    look: Any = point.mark.points(7) | {"color": GREY, "markerfacecolor": "white", "markeredgecolor": GREY}
    axes.plot([x], [y], linestyle="none", zorder=1, **look)


@dataclass(frozen=True)
class Curve:
    """A curve of a group: ``y`` over ``x``, between ``low`` and ``high`` where they are given."""

    mark: Mark
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())


def plot_groups_of_curves(
    panels: Mapping[str, Sequence[Curve]], legends: Legends, *, xlabel: str, at: float | None = None
) -> Figure:
    """Curves of several groups, one panel per quantity.

    Args:
        panels: label of the y axis to curves.
        legends: as :func:`kafnets.plots.marks.marks` returns them.
        xlabel: label of all x axes.
        at: where to draw a vertical line.

    Example:
        >>> curve = Curve(Mark("KAF"), [1, 2], [20.0, 30.0], [19.0, 28.0], [21.0, 32.0])
        >>> figure = plot_groups_of_curves({"robust accuracy, %": [curve]}, [("", [curve.mark])], xlabel="epoch")
        >>> figure.axes[0].get_ylabel()
        'robust accuracy, %'
    """
    figure = new_figure(4.2 * len(panels) + legend_width(legends, 3.9), 3.9)
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for curve in curves:
            few = len(curve.x) <= 12
            style: Any = curve.mark.points(4) if few else {"gid": curve.mark.key or None}
            axes.plot(curve.x, curve.y, linewidth=1.4, **style | curve.mark.line())
            if len(curve.low):
                band: Any = {"color": curve.mark.color, "alpha": 0.13, "linewidth": 0, "gid": curve.mark.key or None}
                axes.fill_between(curve.x, curve.low, curve.high, **band)
        if at is not None:
            axes.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.25)
        open_frame(axes)
        if not curves:
            show_message(axes, "not measured")
    add_legends(figure, legends, lines=True)
    return figure


@dataclass(frozen=True)
class Shape:
    """A learned activation: one curve per channel over ``x``, and the same before training where it is known."""

    layer: str
    x: Sequence[float]
    y: Sequence[Sequence[float]]
    start: Sequence[Sequence[float]] = field(default=())


def plot_learned_shapes(shapes: Sequence[Shape], color: str = INK) -> Figure:
    """The learned activations of a network in one row, a panel per layer: before training in grey, after in colour.

    Args:
        shapes: one per layer, at least one.
        color: of the learned curves.

    Example:
        >>> len(plot_learned_shapes([Shape("act1", [-1, 0, 1], [[0, 0, 1]]), Shape("act2", [-1, 1], [[0, 1]])]).axes)
        2
    """
    if not shapes:
        raise ValueError("there is no learned activation to draw; call plot_learned_shapes only for one layer or more")
    width, height = 1.5 * len(shapes) + 0.1, 1.35
    figure = new_figure(width, height)
    figure.set_layout_engine(None)  # by hand, because the layout of many small panels takes seconds otherwise
    figure.subplots_adjust(0.32 / width, 0.2 / height, 1 - 0.1 / width, 1 - 0.22 / height, wspace=0.36)
    for axes, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        _draw_shape(axes, shape, color)
    return figure


def _draw_shape(axes: Axes, shape: Shape, color: str) -> None:
    axes.axhline(0, color="#CCCCCC", linewidth=0.5)
    for curves, style in ((shape.start, {"color": "#999999", "linestyle": "--"}), (shape.y, {"color": color})):
        lines = [list(zip(shape.x, curve, strict=True)) for curve in curves]
        axes.add_collection(LineCollection(lines, linewidths=0.9, **style))  # type: ignore[arg-type]
    axes.autoscale_view()
    axes.set_title(shape.layer, fontsize=7, pad=2)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = MaxNLocator(2, steps=[1, 2, 5, 10]).tick_values(low, high)
        axis.set_ticks([tick for tick in ticks if low <= tick <= high])
    axes.tick_params(labelsize=6, length=2, pad=1.5)
    open_frame(axes)
