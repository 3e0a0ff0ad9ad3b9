"""Runs that differ only in their seed, as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kafnets.analysis.over_runs import accuracy_over_runs
from kafnets.analysis.per_image_results import PerImageResults
from lightning_modules.comparison.measurement import Measurement, measurement
from lightning_modules.comparison.members import Member, axis_value, varying_axes

INTERVALS = "Wilson's over the images for one run, over runs and images (docs/comparison.md) for several"
ONE_RUN = "Wilson over images"
PER_IMAGE = "t over runs and images, from results per image"
BOUNDED = "t over runs and images, the images' part at most p (1 - p) / N"


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its 95 % interval, see :func:`~kafnets.analysis.over_runs.accuracy_over_runs`.

    Attributes:
        mean: of the runs, in [0, 1].
        std: of the runs; None for one run.
        low, high: ends of the interval, in [0, 1].
        runs, images: number of runs, and of images per run.
        interval: how the interval was computed.
    """

    mean: float
    std: float | None
    low: float
    high: float
    runs: int
    images: int
    interval: str = ONE_RUN


@dataclass(frozen=True)
class Group:
    """The runs of one training that differ only in their seed, measured in the same way.

    Attributes:
        axes: value of each axis on which the page's runs differ.
        label: its name on the page, different from every other.
        measured: how its robust accuracy was measured.
        members: its runs, ordered by seed.
    """

    axes: dict[str, str]
    label: str
    measured: Measurement
    members: tuple[Member, ...]

    @property
    def first(self) -> dict[str, Any]:
        """The record of its first run."""
        return self.members[0].record

    @property
    def study(self) -> str:
        """The study it belongs to; empty for run folders."""
        return self.first["study"] if self.members[0].source.is_file() else ""

    @cached_property
    def clean(self) -> Estimate:
        """Clean accuracy."""
        return _estimate([member.record["clean"] for member in self.members])

    @cached_property
    def robust(self) -> Estimate:
        """Robust accuracy, as :attr:`measured` says."""
        name = "worst_case" if self.measured.worst_case else "robust"
        return _estimate([member.record[name] for member in self.members], self.outcomes())

    def mean(self, *path: str) -> float | None:
        """Return the mean of a number of the records, None if a run lacks it."""
        values = []
        for member in self.members:
            value: Any = member.record
            for name in path:
                value = value[name] if value else None
            if value is None:
                return None
            values.append(value)
        return sum(values) / len(values)

    def outcomes(self) -> Tensor | None:
        """Return which images each run classifies correctly in the worst case, bool ``(runs, N)``; None if unknown."""
        if not self.measured.worst_case:
            return None
        found = [PerImageResults.decode(member.record["outcomes"]) for member in self.members]
        names = ("clean", *self.first["attacks"])
        return torch.stack([torch.stack([each[name] for name in names]).amin(0) == 1 for each in found])

    @property
    def complaints(self) -> list[tuple[Member, dict[str, Any]]]:
        """The sanity checks that warn or fail, with their run."""
        return [(member, check) for member in self.members for check in member.record["checks"]]

    @property
    def events(self) -> list[tuple[Member, dict[str, Any]]]:
        """What guards have noted, such as a collapse, with its run."""
        return [(member, event) for member in self.members for event in member.record["events"]]


def _estimate(counted: Sequence[dict[str, Any]], right: Tensor | None = None) -> Estimate:
    first = counted[0]
    images = first["images"]
    if len(counted) == 1:
        return Estimate(first["accuracy"], None, first["wilson95_low"], first["wilson95_high"], runs=1, images=images)
    found = accuracy_over_runs([each["accuracy"] for each in counted], images, right)
    how = BOUNDED if right is None else PER_IMAGE
    return Estimate(found.mean, found.std, found.low, found.high, runs=len(counted), images=images, interval=how)


def group(members: Sequence[Member]) -> list[Group]:
    """Put runs together that differ only in their seed and were measured in the same way, in the order given.

    Raises:
        ValueError: if a training occurs twice with the same seed and the same measurement.
    """
    found: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        found.setdefault((member.settings, measurement(member.record)), []).append(member)
    axes = varying_axes(members)
    groups = []
    for (_, measured), runs in found.items():
        runs.sort(key=lambda member: member.seed)
        for one, two in pairwise(runs):
            if one.seed == two.seed:
                raise ValueError(
                    f"{one.source} and {two.source} are two runs of one training with seed {one.seed}, which don't "
                    "count as two; leave one of them out"
                )
        groups.append(Group({name: axis_value(runs[0], name) for name in axes}, "", measured, tuple(runs)))
    return _named(groups)


def _named(groups: Sequence[Group]) -> list[Group]:
    """Name each group by its axes; where that is not enough, also by its study or its first run."""
    labels = [" · ".join(each.axes.values()) for each in groups]
    taken = [(label, each.measured) for label, each in zip(labels, groups, strict=True)]
    studies = [each.study for each in groups]
    named = []
    for each, label, study in zip(groups, labels, studies, strict=True):
        if taken.count((label, each.measured)) > 1 or not label:
            rivals = [studies[i] for i, other in enumerate(taken) if other == (label, each.measured)]
            own = study if study and rivals.count(study) == 1 and len(rivals) > 1 else _run_name(each.members[0])
            label = f"{label} ({own})" if label else own
        named.append(Group(each.axes, label, each.measured, each.members))
    return named


def _run_name(member: Member) -> str:
    """The end of a run's path: its name and its version, or the member of a study."""
    if member.source.is_file():
        return f"{member.record['study']}/{member.record['member']}"
    return "/".join(member.source.resolve().parts[-2:])
