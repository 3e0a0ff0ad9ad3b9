"""The picture of a learning-rate range test."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from kafnets.analysis.learning_rate_range import LearningRates
from kafnets.plots.style import BLUE, INK, SHADE, SKY, VERMILION, Row, new_figure, open_frame, show_message


def plot_learning_rate_range(points: Sequence[Row], found: LearningRates | None, *, objective: str) -> Figure:
    """Adversarial training loss and robust accuracy over the learning rate, one panel above the other.

    Args:
        points: rows as :func:`kafnets.analysis.learning_rate_range.learning_rates` takes them.
        found: what it returned: the range from minimum to maximum is shaded, and a line marks the collapse. None if it
            found nothing.
        objective: what the loss is.

    Example:
        >>> row = {"lr": 0.1, "loss": 2.0, "single_step_accuracy": 0.3, "pgd_accuracy": 0.2}
        >>> figure = plot_learning_rate_range([row], LearningRates(0.01, 0.2, 0.5), objective="Adversarial-FGSM")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy, %']
    """
    figure = new_figure(8.0, 6.0)
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    _draw(loss, points, "loss", 1, label=f"training,\n{objective}", color=INK)
    values = sorted(float(point["loss"]) for point in points)
    if values and values[-1] > 2 * values[len(values) // 2]:
        loss.set_yscale("log")  # a loss that diverges would hide where it falls
        for ticks in (loss.yaxis.set_major_formatter, loss.yaxis.set_minor_formatter):
            ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
    _draw(accuracy, points, "pgd_accuracy", 100, label="validation, PGD-10", color=VERMILION)
    _draw(accuracy, points, "single_step_accuracy", 100, label="validation, FGSM", color=BLUE, linestyle="--")
    accuracy.set_ylim(bottom=0)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy, %")):
        axes.set_ylabel(name)
        _mark(axes, found)
        axes.grid(alpha=0.25)
        open_frame(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, borderaxespad=0.0)
        if not points:
            show_message(axes, "no point was reached")
    accuracy.set_xscale("log" if points else "linear")
    accuracy.set_xlabel("learning rate")
    figure.align_ylabels()
    return figure


def _draw(axes: Axes, points: Sequence[Row], key: str, scale: float, **style: Any) -> None:
    rates, values = [point["lr"] for point in points], [scale * point[key] for point in points]
    axes.plot(rates, values, linewidth=1.6, marker="o", markersize=3, **style)


def _mark(axes: Axes, found: LearningRates | None) -> None:
    if found is None:
        return
    label = f"suggested:\n{found.minimum:.2g} to {found.maximum:.2g}"
    axes.axvspan(found.minimum, found.maximum, color=SHADE, alpha=0.6, linewidth=0, label=label)
    if found.collapse is not None:
        axes.axvline(
            found.collapse, color=SKY, linestyle=":", linewidth=2, label=f"collapse\nfrom {found.collapse:.2g}"
        )
