"""Compares two networks on the same images, attack by attack."""

from typing import Any

import torch

from kafnets.analysis.comparison import Comparison, compare
from kafnets.analysis.per_image_results import PerImageResults

BALL = ("norm", "eps")
DATA = ("data", "data_sha256")


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Comparison]:
    """Compare clean accuracy, the worst case and every shared attack, image by image, on the shared images.

    Args:
        first, second: records with a report, as :func:`~lightning_modules.read_report.read_report` or
            :func:`~lightning_modules.studies.member_record.read_member` return them.

    Returns:
        The comparisons by name. The worst case is taken over the attacks that both reports have.

    Raises:
        ValueError: if the reports are of other data or another ball, or share no image.
    """
    for what, names in (("data", DATA), ("eps or norm", BALL)):
        one, other = (_values(record, names) for record in (first, second))
        if one != other:
            raise ValueError(f"the reports differ in {what}, so their images can't be paired: {one} and {other}")
    a, b = _shared(PerImageResults.decode(first["outcomes"]), PerImageResults.decode(second["outcomes"]))
    compared = {"clean": compare(a["clean"] == 1, b["clean"] == 1)}
    both = [name for name in first["attacks"] if name in second["attacks"]]
    compared |= {name: compare(a[name] == 1, b[name] == 1) for name in both}
    alike = len(both) == len(first["attacks"]) == len(second["attacks"])
    name = "worst case" if alike else f"worst case of the {len(both)} attacks that both have"
    return compared | {name: compare(_worst(a, both), _worst(b, both))}


def _values(record: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    settings = next(iter(record["attacks"].values()))["settings"]
    return [(settings | record).get(name) for name in names]


def _worst(outcomes: PerImageResults, attacks: list[str]) -> torch.Tensor:
    return torch.stack([outcomes[name] for name in ("clean", *attacks)]).amin(0) == 1


def _shared(a: PerImageResults, b: PerImageResults) -> tuple[PerImageResults, PerImageResults]:
    """Return both, reduced to the images they share."""
    parts = [
        PerImageResults(
            {name: values[torch.isin(one["index"], other["index"])] for name, values in one.columns.items()}
        )
        for one, other in ((a, b), (b, a))
    ]
    if not len(parts[0]) or not torch.equal(parts[0]["label"], parts[1]["label"]):
        raise ValueError("the reports share no image, or label them differently; test both on the same set")
    return parts[0], parts[1]
