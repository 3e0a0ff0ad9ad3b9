"""Figures that others have claimed for the same networks."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from lightning_modules.comparison.groups import Group

FILE = Path(__file__).with_name("claims.json")


@cache
def claims() -> dict[str, Any]:
    """Return the content of ``claims.json``."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def claimed(group: Group) -> tuple[float, float] | None:
    """Return the claimed clean and robust accuracy, in [0, 1], of a group's network; None if there is no claim.

    A claim counts for a network of the same backbone, activation and objective, on the same data and in the same threat
    model.
    """
    known, record = claims(), group.first
    same_data = record["data"] in known["data"] or record["data_sha256"] in known["data_sha256"]
    same_training = record["run"]["objective"] == known["objective"]
    if not (same_data and same_training and group.measured.threat == known["threat"]):
        return None
    backbone = record["run"]["backbone"].partition("(")[0]
    found = known["per_cent"].get(backbone, {}).get(record["run"]["activation"])
    return (found[0] / 100, found[1] / 100) if found else None
