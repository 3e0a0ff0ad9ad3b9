"""The figures of a robustness study as plain data for tables, files and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_study import ROLES
from kafnets.analysis.sanity_checks import sanity_checks
from kafnets.attacks import Attack
from kafnets.described import in_words
from kafnets.metrics import wilson_interval

Record: TypeAlias = dict[str, Any]


def counted(right: Tensor) -> Record:
    """``accuracy``, ``wilson95_low``, ``wilson95_high``, ``right`` and ``images`` of ones and zeros; NaN is ignored.

    Example:
        >>> found = counted(torch.tensor([1.0, 0.0, torch.nan]))
        >>> found["accuracy"], found["right"], found["images"]
        (0.5, 1, 2)
    """
    measured = right[~right.isnan()]
    count, total = int(measured.sum()), len(measured)
    low, high = wilson_interval(count, total)
    accuracy = count / total if total else None
    return {"accuracy": accuracy, "wilson95_low": low, "wilson95_high": high, "right": count, "images": total}


def robustness_record(
    results: PerImageResults,
    facts: Mapping[str, set[str]],
    *,
    attacks: Mapping[str, Attack],
    seconds: Mapping[str, float],
    class_names: Sequence[str],
) -> Record:
    """Count what a :class:`~kafnets.analysis.robustness_study.RobustnessStudy` measured.

    Args:
        results: its results, of one image or more.
        facts: its facts.
        attacks: its attacks by name.
        seconds: the time each part took.
        class_names: the name of each class.

    Returns:
        A dictionary that JSON can store: ``clean``, ``worst_case`` and each of ``attacks`` as :func:`counted`; the same
        for each of ``classes``; ``curves`` over ``eps``, ``steps``, ``restarts`` (points ``at`` and their counts) and
        the mean ``loss`` at each step; ``checks``; and ``outcomes``, the results themselves, from which all this can be
        counted again.

    Raises:
        ValueError: if there is no image.

    Example:
        >>> columns = {"index": [0, 1], "label": [0, 1], "clean": [1, 1], "white/PGD": [1, 0], "black/Square": [0, 1]}
        >>> results = PerImageResults({name: torch.tensor(values) for name, values in columns.items()})
        >>> record = robustness_record(results, {}, attacks={}, seconds={}, class_names=["cat", "dog"])
        >>> record["clean"]["accuracy"], record["worst_case"]["accuracy"], record["classes"][1]["class"]
        (1.0, 0.0, 'dog')
    """
    if not len(results):
        raise ValueError("no image was measured; measure one or more")
    worst = torch.minimum(results["clean"], results.worst(*ROLES))
    return {
        "clean": counted(results["clean"]),
        "worst_case": counted(worst),
        "attacks": {name: _attack(name, attack, results, seconds) for name, attack in attacks.items()},
        "classes": _classes(results, worst, class_names),
        "curves": _curves(results),
        "checks": [asdict(check) for check in sanity_checks(results, facts)],
        "facts": {name: sorted(found) for name, found in facts.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "outcomes": results.encode(),
    }


def _attack(name: str, attack: Attack, results: PerImageResults, seconds: Mapping[str, float]) -> Record:
    took = {"seconds": round(seconds.get(name, 0.0), 3)}
    return counted(results[name]) | took | {"settings": plain(attack.settings())}


def plain(value: Any) -> Any:
    """``value`` as JSON can store it: sets in order, other objects by their name or their text, without addresses.

    Example:
        >>> plain({"norm": ("Linf", 0.5), "loss": max, "object": object(), "names": {"b", "a"}})
        {'norm': ['Linf', 0.5], 'loss': 'max', 'object': 'object', 'names': ['a', 'b']}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return in_words(value)


def _classes(results: PerImageResults, worst: Tensor, class_names: Sequence[str]) -> list[Record]:
    rows = []
    for label, name in enumerate(class_names):
        of_class = results["label"] == label
        if bool(of_class.any()):
            clean, worst_case = counted(results["clean"][of_class]), counted(worst[of_class])
            rows.append({"class": name, "clean": clean, "worst_case": worst_case})
    return rows


def _curves(results: PerImageResults) -> dict[str, list[Record]]:
    curves: dict[str, list[Record]] = {}
    for name in ("eps", "steps", "restarts"):
        columns = results.named(name)
        if columns:
            measured = ~next(iter(columns.values())).isnan()
            points = {"0": results["clean"][measured]} if name != "restarts" else {}
            curves[name] = [{"at": float(at)} | counted(values) for at, values in (points | columns).items()]
    losses = results.named("loss")
    if losses:
        means = {at: float(values.nanmean()) for at, values in losses.items()}
        # JSON has no NaN
        curves["loss"] = [{"at": float(at), "mean": mean if isfinite(mean) else None} for at, mean in means.items()]
    return curves
