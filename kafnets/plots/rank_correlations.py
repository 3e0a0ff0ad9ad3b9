"""How statistics of networks go with their robust accuracy."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kafnets.analysis.activation_statistics import LEVEL, STATISTICS, Explained
from kafnets.plots.marks import plain_text
from kafnets.plots.style import BLUE, GREY, INK, new_figure, open_frame


def plot_rank_correlations(found: Sequence[Explained]) -> Figure:
    """The rank correlation of each statistic with robust accuracy, with its 95 % interval, the smallest p-value on top.

    Args:
        found: as :func:`kafnets.analysis.activation_statistics.explained` returns them.
    """
    shown = [each for each in found if each.found]
    figure = new_figure(7.6, 0.3 * len(shown) + 1.0)
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    for place, each in enumerate(shown):
        assert each.found and each.adjusted is not None
        color = BLUE if each.adjusted < LEVEL else GREY
        axes.plot([each.found.low, each.found.high], [place, place], color=color, linewidth=1.6)
        axes.plot([each.found.rho], [place], marker="o", color=color, markersize=6)
    names = [f"{STATISTICS[each.name].title} (n = {each.found.pairs})" for each in shown if each.found]
    axes.set_yticks(range(len(shown)), [plain_text(name) for name in names], fontsize=8.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-1.03, 1.03)
    axes.set_xlabel("Spearman's rank correlation with robust accuracy", fontsize=9)
    axes.grid(alpha=0.25, axis="x")
    open_frame(axes)
    return figure


def plot_against_robustness(found: Sequence[Explained]) -> Figure:
    """Each statistic against robust accuracy: one panel per statistic, one point per network.

    Args:
        found: as :func:`kafnets.analysis.activation_statistics.explained` returns them, at least one.
    """
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    figure = new_figure(2.5 * columns, 1.95 * rows + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, each in zip(panels, found, strict=False):
        _draw(axes, each)
    for axes in panels[len(found) :]:
        axes.remove()
    figure.supylabel("robust accuracy, %", fontsize=9)
    return figure


def _draw(axes: Axes, each: Explained) -> None:
    finite = [(v, 100 * a) for v, a in zip(each.values, each.accuracies, strict=True) if v < float("inf")]
    endless = [100 * a for v, a in zip(each.values, each.accuracies, strict=True) if v == float("inf")]
    axes.plot([v for v, _ in finite], [a for _, a in finite], linestyle="none", marker="o", color=BLUE, markersize=4.5)
    if endless:
        axes.plot([1.0] * len(endless), endless, transform=axes.get_yaxis_transform(), linestyle="none", marker=">",
                  color=INK, markersize=5, clip_on=False)  # fmt: skip
        axes.text(0.98, 0.02, "▸ ∞", transform=axes.transAxes, ha="right", fontsize=8)
    values = [v for v, _ in finite if v > 0]
    if values and len(values) == len(finite) and max(values) > 30 * min(values):
        axes.set_xscale("log")
    axes.set_title(plain_text(STATISTICS[each.name].title.replace(", ", ",\n", 1), 80), fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.25)
    open_frame(axes)
