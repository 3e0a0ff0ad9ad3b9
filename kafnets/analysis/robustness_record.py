"""The figures of a robustness study, counted: plain data for tables, files and pictures."""

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
from kafnets.metrics import wilson_interval

Record: TypeAlias = dict[str, Any]


def counted(right: Tensor) -> Record:
    """``accuracy``, ``wilson95_low``, ``wilson95_high``, ``right`` and ``images`` of ones and zeros; NaN is left out.

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
    outcomes: PerImageResults,
    facts: Mapping[str, set[str]],
    *,
    attacks: Mapping[str, Attack],
    seconds: Mapping[str, float],
    class_names: Sequence[str],
) -> Record:
    """Count what a :class:`~kafnets.analysis.robustness_study.RobustnessStudy` measured.

    Args:
        outcomes: its columns, of one image or more.
        facts: its facts.
        attacks: its attacks by name.
        seconds: the time each part took.
        class_names: the name of each class.

    Returns:
        JSON-ready: ``clean``, ``worst_case`` and each of ``attacks`` as :func:`counted`; the same for each of
        ``classes``; ``curves`` over ``eps``, ``steps``, ``restarts`` (points ``at`` and their counts) and the mean
        ``loss`` at each step; ``checks``; and the outcomes themselves, from which all of it can be counted again.

    Raises:
        ValueError: if there is no image.

    Example:
        >>> columns = {"index": [0, 1], "label": [0, 1], "clean": [1, 1], "white/PGD": [1, 0], "black/Square": [0, 1]}
        >>> outcomes = PerImageResults({name: torch.tensor(values) for name, values in columns.items()})
        >>> record = robustness_record(outcomes, {}, attacks={}, seconds={}, class_names=["cat", "dog"])
        >>> record["clean"]["accuracy"], record["worst_case"]["accuracy"], record["classes"][1]["class"]
        (1.0, 0.0, 'dog')
    """
    if not len(outcomes):
        raise ValueError("no image was measured; measure one or more")
    worst = torch.minimum(outcomes["clean"], outcomes.worst(*ROLES))
    return {
        "clean": counted(outcomes["clean"]),
        "worst_case": counted(worst),
        "attacks": {name: _attack(name, attack, outcomes, seconds) for name, attack in attacks.items()},
        "classes": _classes(outcomes, worst, class_names),
        "curves": _curves(outcomes),
        "checks": [asdict(check) for check in sanity_checks(outcomes, facts)],
        "facts": {name: sorted(found) for name, found in facts.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "outcomes": outcomes.encode(),
    }


def _attack(name: str, attack: Attack, outcomes: PerImageResults, seconds: Mapping[str, float]) -> Record:
    took = {"seconds": round(seconds.get(name, 0.0), 3)}
    return counted(outcomes[name]) | took | {"settings": plain(attack.settings())}


def plain(value: Any) -> Any:
    """``value`` as JSON has it: objects by what they say of themselves.

    Example:
        >>> plain({"norm": ("Linf", 0.5), "loss": max})
        {'norm': ['Linf', 0.5], 'loss': 'max'}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", str(value))


def _classes(outcomes: PerImageResults, worst: Tensor, class_names: Sequence[str]) -> list[Record]:
    rows = []
    for label, name in enumerate(class_names):
        of_class = outcomes["label"] == label
        if bool(of_class.any()):
            clean, worst_case = counted(outcomes["clean"][of_class]), counted(worst[of_class])
            rows.append({"class": name, "clean": clean, "worst_case": worst_case})
    return rows


def _curves(outcomes: PerImageResults) -> dict[str, list[Record]]:
    curves: dict[str, list[Record]] = {}
    for name in ("eps", "steps", "restarts"):
        columns = outcomes.named(name)
        if columns:
            measured = ~next(iter(columns.values())).isnan()
            points = {"0": outcomes["clean"][measured]} if name != "restarts" else {}
            curves[name] = [{"at": float(at)} | counted(values) for at, values in (points | columns).items()]
    losses = outcomes.named("loss")
    if losses:
        means = {at: float(values.nanmean()) for at, values in losses.items()}
        # JSON has no NaN
        curves["loss"] = [{"at": float(at), "mean": mean if isfinite(mean) else None} for at, mean in means.items()]
    return curves
