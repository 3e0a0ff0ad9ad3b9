"""One number per network for each thing that a study of activations measures, and how they go with robustness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from kafnets.analysis.over_runs import holm
from kafnets.analysis.rank_correlation import RankCorrelation, rank_correlation

Record: TypeAlias = Mapping[str, Any]

LEVEL = 0.05  # of the corrected tests


@dataclass(frozen=True)
class Statistic:
    """A number that describes a network.

    Attributes:
        title: its name on pages and in tables.
        of: computes it from a record of :func:`~kafnets.analysis.activation_study.activation_study`; None if the
            network has no such number.
    """

    title: str
    of: Callable[[Record], float | None]


def _over_layers(name: str) -> Callable[[Record], float | None]:
    def mean(record: Record) -> float | None:
        values = [float(layer[name]) for layer in record["layers"] if layer[name] is not None]
        return sum(values) / len(values) if values else None

    return mean


def _largest(name: str) -> Callable[[Record], float | None]:
    return lambda record: max(
        (float(layer[name]) for layer in record["layers"] if layer[name] is not None), default=None
    )


def _distance(name: str, *, last: bool) -> Callable[[Record], float]:
    def found(record: Record) -> float:
        values = [float(layer["distances"]["attacked"][name][0]) for layer in record["layers"]]
        return values[-1] if last else sum(values) / len(values)

    return found


def beyond_noise(layer: Record) -> float | None:
    """The relative distance of a layer over that after random noise of the same size; None where it is undefined."""
    attacked, noise = (float(layer["distances"][kind]["relative"][0]) for kind in ("attacked", "noise"))
    return attacked / noise if noise and noise != float("inf") else None


def _beyond_noise(record: Record) -> float | None:
    return beyond_noise(record["layers"][-1])


def _density_shift(record: Record) -> float:
    """Half the area between the densities of clean and attacked inputs, as a mean over the layers: 0 to 1."""
    shifts = []
    for density in (layer["density"] for layer in record["layers"]):
        widths = [right - left for left, right in pairwise(density["edges"])]
        gaps = [abs(a - b) for a, b in zip(density["clean"], density["attacked"], strict=True)]
        shifts.append(sum(width * gap for width, gap in zip(widths, gaps, strict=True)) / 2)
    return sum(shifts) / len(shifts)


def _outside(record: Record) -> float | None:
    values = [layer["outside"]["clean"] for layer in record["layers"] if layer["outside"]]
    return sum(values) / len(values) if values else None


STATISTICS: dict[str, Statistic] = {
    "l2_last": Statistic("L2 distance, last layer", _distance("l2", last=True)),
    "relative_last": Statistic("relative distance, last layer", _distance("relative", last=True)),
    "relative_mean": Statistic("relative distance, mean of layers", _distance("relative", last=False)),
    "angle_last": Statistic("angle, last layer", _distance("angle", last=True)),
    "beyond_noise": Statistic("attack / noise, relative distance, last layer", _beyond_noise),
    "density_shift": Statistic("shift of the densities, mean of layers", _density_shift),
    "slope": Statistic("largest slope", _largest("slope")),
    "squared_slope": Statistic("E f'², mean of layers", _over_layers("squared_slope")),
    "curvature": Statistic("largest curvature max|f''|", _largest("curvature")),
    "squared_curvature": Statistic("E f''², mean of layers", _over_layers("squared_curvature")),
    "share_in_band": Statistic("channels with max|f''| in 4 to 10", _over_layers("share_in_band")),
    "outside": Statistic("inputs outside the dictionary", _outside),
    "flat": Statistic("inputs on flat parts", _over_layers("flat")),
    "dead": Statistic("dead channels", _over_layers("dead")),
    "drift": Statistic("drift of the shapes, mean of layers", _over_layers("drift")),
    "alignment": Statistic("gradient alignment", lambda record: (record["alignment"]["mean"] or [None])[0]),
    "rise": Statistic("rise of the loss over eps", lambda record: record["surface"]["rise"][0]),
    "bend": Statistic("bend of the loss over eps", lambda record: record["surface"]["bend"][0]),
}


def statistics(record: Record) -> dict[str, float | str | None]:
    """The value of each statistic, in the order of :data:`STATISTICS`; ``"inf"`` where it is infinite."""
    found = {name: statistic.of(record) for name, statistic in STATISTICS.items()}
    return {name: "inf" if value == float("inf") else value for name, value in found.items()}


@dataclass(frozen=True)
class Explained:
    """How a statistic goes with robust accuracy over several networks.

    Attributes:
        name: of the statistic.
        values: of the networks that have it.
        accuracies: their robust accuracies.
        found: the rank correlation; None if it has too few values, or all are equal.
        adjusted: its p-value, corrected by Holm's method for the number of statistics tested; None without one.
    """

    name: str
    values: tuple[float, ...]
    accuracies: tuple[float, ...]
    found: RankCorrelation | None
    adjusted: float | None


def explained(records: Sequence[Mapping[str, Any]], accuracies: Sequence[float]) -> list[Explained]:
    """The rank correlation of each statistic with robust accuracy, from the smallest p-value to the largest.

    Args:
        records: dictionaries with ``statistics``, one per network, as an ``inspect.json`` holds them.
        accuracies: the robust accuracy of each network, all measured in the same way, in [0, 1].

    Raises:
        ValueError: if the numbers of records and accuracies differ.

    Example:
        >>> records = [{"statistics": {"flat": 0.1 * i}} for i in range(6)]
        >>> found = explained(records, [0.4, 0.39, 0.38, 0.35, 0.3, 0.2])[0]
        >>> found.name, round(found.found.rho, 4), round(found.adjusted, 4)
        ('flat', -1.0, 0.0028)
    """
    if len(records) != len(accuracies):
        raise ValueError(f"each network needs one accuracy, got {len(records)} and {len(accuracies)}")
    rows = []
    for name in STATISTICS:
        pairs = [
            (float(value), accuracy)
            for record, accuracy in zip(records, accuracies, strict=True)
            if (value := record["statistics"].get(name)) is not None
        ]
        values, matching = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        rows.append((name, values, matching, rank_correlation(values, matching)))
    corrected = iter(holm([row[3].p_value for row in rows if row[3]]))
    found = [Explained(*row, next(corrected) if row[3] else None) for row in rows if row[1]]
    return sorted(found, key=lambda each: each.found.p_value if each.found else 2.0)


def explanation(found: Sequence[Explained], intervals: Sequence[tuple[float, float]]) -> str:
    """Say in words what the correlations support, and what they do not.

    Args:
        found: as :func:`explained` returns them.
        intervals: the 95 % interval of each network's robust accuracy, in [0, 1].
    """
    tested = [each for each in found if each.found and each.adjusted is not None]
    if not tested:
        return f"{len(intervals)} networks are too few, or too alike, for a rank correlation."
    sure = [each for each in tested if each.adjusted is not None and each.adjusted < LEVEL]
    shown = sure or tested[:1]
    names = "; ".join(f"{STATISTICS[each.name].title} ({_text(each)})" for each in shown)
    if sure:
        sentence = f"{len(sure)} of {len(tested)} statistics go with robust accuracy after correction for their number"
        sentence += f": {names}."
    else:
        sentence = f"none of the {len(tested)} statistics goes with robust accuracy beyond chance once corrected for "
        sentence += f"their number. The smallest p-value is that of {names}."
    return f"Over {len(intervals)} networks, {sentence} {_limits(intervals)}"


def _limits(intervals: Sequence[tuple[float, float]]) -> str:
    text = (
        "The networks are few and differ in more than one thing at once: a correlation is no cause, and its absence is "
        "no proof of independence."
    )
    if max(low for low, _ in intervals) < min(high for _, high in intervals):
        return f"All robust accuracies lie within each other's 95 % intervals, so there is little to explain. {text}"
    return text


def _text(each: Explained) -> str:
    assert each.found and each.adjusted is not None
    found = each.found
    return (
        f"rho {found.rho:+.2f}, 95 % [{found.low:+.2f}, {found.high:+.2f}], p {found.p_value:.2g}, "
        f"corrected {each.adjusted:.2g}"
    )
