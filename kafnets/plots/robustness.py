"""One page about the robustness of a network."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kafnets.plots.image_sheet import Sheet, draw_sheet
from kafnets.plots.style import BLUE, INK, SKY, VERMILION, Row, new_figure, open_frame, show_message
from kafnets.threat import show_units


def plot_robustness(record: Mapping[str, Any], sheet: Sheet, class_names: Sequence[str], title: str = "") -> Figure:
    """A robustness record on one page, with Wilson 95 % intervals, and some of the images.

    Args:
        record: as :func:`kafnets.analysis.robustness_record.robustness_record` returns it.
        sheet: clean and adversarial images, possibly none.
        class_names: the name of each class.
        title: written above everything, such as the name of the network.

    Returns:
        A figure of the accuracy under each attack; over eps, where it must end at 0; over steps and restarts, where it
        must flatten; and per class. Below, one column per image: the clean image, the perturbation (scaled to the full
        range, grey is no change) and the adversarial image.

    Example:
        >>> half = {"accuracy": 0.5, "wilson95_low": 0.1, "wilson95_high": 0.9, "images": 2}
        >>> record = {"clean": half, "worst_case": half, "attacks": {}, "classes": [], "curves": {}, "checks": []}
        >>> len(plot_robustness(record, [], ["cat", "dog"]).axes)
        4
    """
    figure = new_figure(11.0, 7.6 + (4.4 if sheet else 0.0))
    parts: Any = figure.subfigures(2, 1, height_ratios=[7.6, 4.4]) if sheet else [figure]
    top, *below = parts
    bars, radius, effort, classes = top.subplots(2, 2).flatten()
    _draw_attacks(bars, record)
    _draw_radius(radius, record["curves"].get("eps", []))
    _draw_effort(effort, record["curves"])
    _draw_classes(classes, record["classes"])
    for each in below:
        draw_sheet(each, sheet, class_names)
    _draw_verdict(figure, record["checks"], title)
    return figure


def _draw_verdict(figure: Figure, checks: Sequence[Row], title: str) -> None:
    """Write the title and the result of the sanity checks above all panels."""
    above = [title] if title else []
    bad = [f"{check['status']}: {check['name']}" for check in checks if check["status"] in ("warn", "fail")]
    if bad:
        figure.suptitle("\n".join([*above, *bad]), fontsize=10, color=VERMILION)
    elif checks:
        passed = sum(check["status"] == "pass" for check in checks)
        figure.suptitle("\n".join([*above, f"{passed} checks passed, none complains"]), fontsize=10)


def _draw_attacks(axes: Axes, record: Mapping[str, Any]) -> None:
    attacks = {_short(name, value): value for name, value in record["attacks"].items()}
    rows = {"clean": record["clean"]} | attacks | {"worst case": record["worst_case"]}
    colors = [BLUE, *[SKY] * len(attacks), VERMILION]
    axes.barh(range(len(rows)), [100 * row["accuracy"] for row in rows.values()], color=colors, height=0.65)
    for place, row in enumerate(rows.values()):
        low, high = 100 * row["wilson95_low"], 100 * row["wilson95_high"]
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
        axes.text(high + 1.5, place, f"{100 * row['accuracy']:.1f}", va="center", fontsize=9, color=INK)
    names = [textwrap.fill(name, 52, break_long_words=False) for name in rows]
    axes.set_yticks(range(len(rows)), names)
    for label in axes.get_yticklabels():
        label.set_fontsize(6 if "\n" in label.get_text() else 8)  # so that the lines of neighbours do not meet
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel("accuracy, %")
    axes.set_title(f"{record['clean']['images']} images", fontsize=10)
    open_frame(axes)


def _short(name: str, attack: Row) -> str:
    """The attack's name without the norm and eps, which are the same for all."""
    settings = attack.get("settings", {})
    ball = f" {settings['norm']} eps {show_units(settings['eps'])}" if settings else ""
    return name.partition("/")[2].replace(ball, "")


def _draw_radius(axes: Axes, points: Sequence[Row]) -> None:
    if points:
        _draw_points(axes, points, BLUE, "")
        last = points[-1]
        axes.annotate(
            f"{100 * last['accuracy']:.1f} % at {last['at']:.3g}",
            (last["at"], 100 * last["accuracy"]),
            xytext=(-4, 12),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=INK,
        )
        # symlog, because the interesting eps are small and 0 must be shown
        first = points[min(1, len(points) - 1)]["at"]
        axes.set_xscale("symlog", linthresh=max(first, 1e-6))
        shown = [p["at"] for p in points if not p["at"] or math.log(p["at"] / first, 4).is_integer() or p is last]
        axes.set_xticks(shown, [show_units(at) if at else "0" for at in shown], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(left=0)
    _finish_accuracy(axes, "eps: must end at 0", points)


def _draw_effort(axes: Axes, curves: Mapping[str, Sequence[Row]]) -> None:
    points: list[Row] = []
    for name, color in (("steps", BLUE), ("restarts", VERMILION)):
        counted = [point for point in curves.get(name, []) if point["at"] > 0]
        if counted:
            _draw_points(axes, counted, color, name)
        points += counted
    if points:
        axes.set_xscale("log")
        ticks = sorted({point["at"] for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=9)
    _finish_accuracy(axes, "steps or restarts: must flatten", points)


def _draw_points(axes: Axes, points: Sequence[Row], color: str, label: str) -> None:
    at = [point["at"] for point in points]
    low, middle, high = ([100 * p[key] for p in points] for key in ("wilson95_low", "accuracy", "wilson95_high"))
    axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(at, middle, color=color, marker="o", markersize=3.5, linewidth=1.6, label=label)


def _finish_accuracy(axes: Axes, xlabel: str, points: Sequence[Row]) -> None:
    axes.set_ylim(0, 100 if not points else max(10, min(100, 112 * max(p["wilson95_high"] for p in points))))
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    open_frame(axes)
    if points:
        axes.set_title(f"{points[0]['images']} images", fontsize=10)
    else:
        show_message(axes, "not measured")


def _draw_classes(axes: Axes, rows: Sequence[Row]) -> None:
    for key, color, label, shift in (("clean", BLUE, "clean", -0.2), ("worst_case", VERMILION, "worst case", 0.2)):
        places = [place + shift for place in range(len(rows))]
        axes.bar(places, [100 * row[key]["accuracy"] for row in rows], width=0.38, color=color, label=label)
        for place, row in zip(places, rows, strict=True):
            low, high = 100 * row[key]["wilson95_low"], 100 * row[key]["wilson95_high"]
            axes.plot([place, place], [low, high], color=INK, linewidth=1.0)
    axes.set_xticks(range(len(rows)), [str(row["class"]) for row in rows], rotation=35, ha="right", fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    open_frame(axes)
    if rows:
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
