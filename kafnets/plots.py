"""Pictures of what training and analysis return: one function per picture; saving is the caller's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from kafnets.analysis.activation_shapes import ActivationShape
from kafnets.attacks.base import show_units

# Okabe and Ito's palette: told apart by the colour-blind, and in grey.
BLUE, VERMILION, SKY, INK, GREY, SHADE = "#0072B2", "#D55E00", "#56B4E9", "#222222", "#666666", "#DDDDDD"

Row = Mapping[str, Any]
# clean image, adversarial image (both C x H x W in [0, 1]), and its true, clean and attacked class
Sheet = list[tuple[Tensor, Tensor, tuple[int, int, int]]]


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


def plot_robustness(record: Mapping[str, Any], sheet: Sheet, class_names: Sequence[str]) -> Figure:
    """A robustness record on one page, with Wilson 95 % intervals, and some of the images.

    Args:
        record: as :func:`kafnets.analysis.robustness_record.robustness_record` returns it.
        sheet: images with what an attack made of them, possibly none.
        class_names: the name of each class.

    Returns:
        A figure: accuracy under each attack; over eps, where it must end at 0; over steps and restarts, where it must
        flatten; by class; and below, one column an image, the clean image, the perturbation (enlarged to the full
        range, grey is no change) and the adversarial image.

    Example:
        >>> half = {"accuracy": 0.5, "wilson95_low": 0.1, "wilson95_high": 0.9, "images": 2}
        >>> record = {"clean": half, "worst_case": half, "attacks": {}, "classes": [], "curves": {}, "checks": []}
        >>> len(plot_robustness(record, [], ["cat", "dog"]).axes)
        4
    """
    figure = _figure(11.0, 7.6 + (4.4 if sheet else 0.0))
    parts: Any = figure.subfigures(2, 1, height_ratios=[7.6, 4.4]) if sheet else [figure]
    top, *below = parts
    bars, radius, effort, classes = top.subplots(2, 2).flatten()
    _draw_attacks(bars, record)
    _draw_radius(radius, record["curves"].get("eps", []))
    _draw_effort(effort, record["curves"])
    _draw_classes(classes, record["classes"])
    for each in below:
        _draw_sheet(each, sheet, class_names)
    _draw_verdict(figure, record["checks"])
    return figure


def _draw_verdict(figure: Figure, checks: Sequence[Row]) -> None:
    """What the checks say, above all the rest."""
    bad = [f"{check['status']}: {check['name']}" for check in checks if check["status"] in ("warn", "fail")]
    if bad:
        figure.suptitle("\n".join(bad), fontsize=10, color=VERMILION)
    elif checks:
        passed = sum(check["status"] == "pass" for check in checks)
        figure.suptitle(f"{passed} checks passed, none complains", fontsize=10)


def _draw_attacks(axes: Axes, record: Mapping[str, Any]) -> None:
    attacks = {_short(name, value): value for name, value in record["attacks"].items()}
    rows = {"clean": record["clean"]} | attacks | {"worst case": record["worst_case"]}
    colors = [BLUE, *[SKY] * len(attacks), VERMILION]
    axes.barh(range(len(rows)), [100 * row["accuracy"] for row in rows.values()], color=colors, height=0.65)
    for place, row in enumerate(rows.values()):
        low, high = 100 * row["wilson95_low"], 100 * row["wilson95_high"]
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
        axes.text(high + 1.5, place, f"{100 * row['accuracy']:.1f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel("accuracy, %")
    axes.set_title(f"{record['clean']['images']} images", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str, attack: Row) -> str:
    """The attack's name without the ball, which all share."""
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
        # the range that matters is a small part of the whole, and zero belongs to it
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
    axes.spines[["top", "right"]].set_visible(False)
    if points:
        axes.set_title(f"{points[0]['images']} images", fontsize=10)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=GREY)


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
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _draw_sheet(figure: SubFigure | Figure, sheet: Sheet, class_names: Sequence[str]) -> None:
    panels = figure.subplots(3, len(sheet), squeeze=False)
    for column, (clean, adversarial, classes) in enumerate(sheet):
        delta = adversarial - clean
        scaled = 0.5 + 0.5 * delta / max(float(delta.abs().max()), 1e-12)
        label, before, after = (class_names[i] if i < len(class_names) else str(i) for i in classes)
        for row, (image, text) in enumerate(((clean, before), (scaled, f"true: {label}"), (adversarial, after))):
            axes = panels[row, column]
            axes.imshow(_pixels(image), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            axes.set_title(text, fontsize=8, color=VERMILION if text != label and row != 1 else INK)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    for row, text in enumerate(("clean", "perturbation", "adversarial")):
        panels[row, 0].set_ylabel(text, fontsize=9)


def _pixels(image: Tensor) -> np.ndarray:
    """``(H, W)`` of a grey image, ``(H, W, 3)`` of a colour one; of others the first channel."""
    channels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    return channels if channels.shape[2] == 3 else channels[..., 0]
