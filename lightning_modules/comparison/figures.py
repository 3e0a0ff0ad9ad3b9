"""The pictures of a comparison."""

from collections.abc import Iterator, Sequence
from typing import Any

from kafnets.plots.comparison import (
    Curve,
    Point,
    Shape,
    plot_clean_against_robust,
    plot_groups_of_curves,
    plot_learned_shapes,
)
from kafnets.plots.marks import Legends, Mark, marks
from kafnets.plots.pairs import Cell, plot_pairs
from lightning_modules.comparison.claims import claimed, claims
from lightning_modules.comparison.compared import Compared
from lightning_modules.comparison.groups import INTERVALS, Estimate, Group
from lightning_modules.comparison.measurement import Measurement
from lightning_modules.comparison.pairs import Pair
from lightning_modules.comparison.table import interval_text
from lightning_modules.pages import Picture, lay_out

MANY = 20  # groups above which less is drawn of each, so that a page stays small


def looks(compared: Compared) -> tuple[list[Mark], Legends]:
    """Return the look of each group, and the legends."""
    return marks([each.axes for each in compared.groups], [each.label for each in compared.groups])


def pictures(compared: Compared) -> list[Picture]:
    """Draw everything that was measured, in the order of the page."""
    return lay_out(
        [*_scatters(compared), *_pairs(compared), *_histories(compared), *_radii(compared), *_shapes(compared)]
    )


def _suffix(compared: Compared, measured: Measurement) -> tuple[str, str]:
    if len(compared.measurements) == 1:
        return "", ""
    letter = compared.letter(measured)
    return f"_{letter}", f" Measured in way {letter}: {measured}."


def _titles(compared: Compared) -> dict[str, str]:
    texts = {}
    for i, each in enumerate(compared.groups):
        runs = f"{len(each.members)} runs" if len(each.members) > 1 else "1 run"
        texts[f"group-{i}"] = (
            f"{each.label}: clean {interval_text(each.clean)} %, robust {interval_text(each.robust)} %, {runs}"
        )
    return texts


def _ends(found: Estimate) -> tuple[float, float, float]:
    return found.low, found.mean, found.high


def _chosen(legends: Legends, numbers: Sequence[int], found: Sequence[Mark]) -> Legends:
    """The legends without groups that a picture does not show."""
    keys = {found[i].key for i in numbers}
    return [(title, [mark for mark in entries if not mark.key or mark.key in keys]) for title, entries in legends]


def _scatters(compared: Compared) -> Iterator[Picture]:
    found, legends = looks(compared)
    for measured in compared.measurements:
        numbers = [i for i, each in enumerate(compared.groups) if each.measured == measured]
        points = [_point(compared.groups[i], found[i]) for i in numbers]
        robust = "worst-case robust accuracy" if measured.worst_case else f"robust accuracy ({measured.attacks[0][0]})"
        figure = plot_clean_against_robust(
            points, _chosen(legends, numbers, found), robust=robust, claim=claims()["short"]
        )
        suffix, text = _suffix(compared, measured)
        grey = f" Grey: figures claimed in {claims()['source']} ({claims()['note']})."
        caption = (
            f"Crosses are 95 % intervals: {INTERVALS}."
            + (grey if any(point.claimed for point in points) else "")
            + text
        )
        yield Picture(f"accuracy{suffix}", figure, caption, "Clean against robust accuracy", _titles(compared))


def _point(group: Group, mark: Mark) -> Point:
    return Point(mark, _ends(group.clean), _ends(group.robust), claimed(group), bool(group.complaints or group.events))


def _pairs(compared: Compared) -> Iterator[Picture]:
    for measured in compared.measurements:
        pairs = [pair for pair in compared.pairs_of(measured) if pair.found]
        if len(pairs) < 2:
            continue  # the text says it all
        numbers = [i for i, each in enumerate(compared.groups) if each.measured == measured]
        place = {number: i for i, number in enumerate(numbers)}
        cells, titles = [], {}
        for pair in pairs:
            assert pair.found
            key = f"group-{pair.a} group-{pair.b}"
            titles[key] = pair_text(compared, pair)
            cells.append(Cell(place[pair.a], place[pair.b], pair.found.difference, pair.significant, key))
        figure = plot_pairs([compared.groups[i].label for i in numbers], cells)
        suffix, text = _suffix(compared, measured)
        caption = (
            "Difference of the robust accuracies of row and column in percentage points; both are ordered from the "
            f"most robust to the least. Coloured: the corrected test tells the two apart.{text}"
        )
        yield Picture(f"pairs{suffix}", figure, caption, "Which differences are significant", titles)


def pair_text(compared: Compared, pair: Pair) -> str:
    """Return the test of a pair in one line."""
    names = f"{compared.groups[pair.a].label} and {compared.groups[pair.b].label}"
    if pair.found is None:
        return f"{names}: no test, {pair.reason}"
    found = pair.found
    seed = "" if pair.seed is None else f", runs of seed {pair.seed}"
    return (
        f"{names}{seed}: {100 * found.difference:+.1f} points, 95 % [{100 * found.low:+.1f}, {100 * found.high:+.1f}], "
        f"p = {found.p_value:.2g}, corrected {pair.adjusted:.2g}"
    )


def _histories(compared: Compared) -> Iterator[Picture]:
    found, legends = looks(compared)
    names = {"val/robust_accuracy": "validation, robust, %", "val/clean_accuracy": "validation, clean, %"}
    panels = {
        label: [curve for i, each in enumerate(compared.groups) if (curve := _history(each, found[i], name))]
        for name, label in names.items()
    }
    if any(panels.values()):
        numbers = [i for i, each in enumerate(compared.groups) if any(m.record["history"] for m in each.members)]
        figure = plot_groups_of_curves(panels, _chosen(legends, numbers, found), xlabel="epoch")
        caption = (
            "Validation accuracy during training, under the cheap attack of the validation. Several runs: their mean, "
            "and the band from the lowest to the highest."
        )
        yield Picture("learning_curves", figure, caption, "Learning curves", _titles(compared))


def _history(group: Group, mark: Mark, name: str) -> Curve | None:
    runs = [
        {
            row["epoch"]: 100 * row[name]
            for row in member.record["history"]
            if None not in (row.get("epoch"), row.get(name))
        }
        for member in group.members
    ]
    runs = [run for run in runs if run]
    return _curve(mark, runs)


def _curve(mark: Mark, runs: Sequence[dict[float, float]]) -> Curve | None:
    """The mean of the runs, and their range, at the places that all of them have."""
    shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not shared:
        return None
    rows = [[run[x] for run in runs] for x in shared]
    mean = [sum(row) / len(row) for row in rows]
    low, high = ([min(row) for row in rows], [max(row) for row in rows]) if len(runs) > 1 else ([], [])
    return Curve(mark, shared, mean, low, high)


def _radii(compared: Compared) -> Iterator[Picture]:
    found, legends = looks(compared)
    curves, numbers, images = [], [], set()
    for i, each in enumerate(compared.groups):
        points = [member.record["eps_curve"] for member in each.members if member.record["eps_curve"]]
        eps = next(iter(each.first["attacks"].values()))["settings"]["eps"] if points else 0.0
        counted = {count for run in points for _, _, count in run}
        if not eps or len(counted) != 1:
            continue
        images |= counted
        runs = [{round(at / eps, 6): 100 * share for at, share, _ in run} for run in points]
        if curve := _curve(found[i], runs):
            curves.append(curve)
            numbers.append(i)
    if not curves:
        return
    end = max(min((x for x, y in zip(c.x, c.y, strict=True) if y < 0.5), default=c.x[-1]) for c in curves)
    cut = [_until(curve, end) for curve in curves]
    figure = plot_groups_of_curves(
        {"robust accuracy, %": cut}, _chosen(legends, numbers, found), xlabel="eps / eps of the test", at=1.0
    )
    count = " or ".join(f"{number:,}" for number in sorted(images))
    caption = f"Accuracy under the first attack of the report over its eps, on {count} images; it must end at 0."
    yield Picture("eps_curves", figure, caption, "Accuracy over eps", _titles(compared))


def _until(curve: Curve, end: float) -> Curve:
    kept = sum(x <= end for x in curve.x)
    return Curve(curve.mark, curve.x[:kept], curve.y[:kept], curve.low[:kept], curve.high[:kept])


def _shapes(compared: Compared) -> Iterator[Picture]:
    found, _ = looks(compared)
    shown = [i for i, each in enumerate(compared.groups) if each.first["shapes"]]
    layers, channels = (6, 8) if len(shown) <= MANY else (4, 3)
    for i in shown:
        group = compared.groups[i]
        shapes = [_shape(shape, channels) for shape in _spread_out(group.first["shapes"], layers)]
        run = f"{group.label}, seed {group.members[0].seed}"
        yield Picture(
            f"shapes_{i + 1:02d}", plot_learned_shapes(shapes, found[i].color), run, "Learned activations",
            group=f"group-{i}",
        )  # fmt: skip


def _shape(shape: dict[str, Any], channels: int) -> Shape:
    start = shape["start"] or []
    if start and all(curve == start[0] for curve in start):
        start = start[:1]  # one curve where every channel began alike
    return Shape(shape["layer"], shape["x"], _spread_out(shape["y"], channels), _spread_out(start, channels))


def _spread_out(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly from the first to the last.

    Example:
        >>> _spread_out([0, 1, 2, 3, 4, 5, 6], 3)
        [0, 3, 6]
    """
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
