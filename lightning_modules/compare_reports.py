"""Two checkpoints on the same images: ``python -m lightning_modules.compare_reports A B``.

A and B are ``robustness.json`` files, or the run folders that hold them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from kafnets.analysis.comparison import Comparison, compare
from kafnets.analysis.outcomes import Outcomes
from kafnets.analysis.robustness_study import ROLES

BALL = ("norm", "eps")


def read_report(path: str | Path) -> dict[str, Any]:
    """The record in a ``robustness.json``, or in the run folder that holds one.

    Raises:
        ValueError: if there is none.
    """
    file = Path(path) / "robustness.json" if Path(path).is_dir() else Path(path)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        record["outcomes"]["index"], record["attacks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no robustness.json of this project: {error}") from None
    return record


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Comparison]:
    """Clean accuracy, the worst case, and every attack both have, on the images both have, image by image.

    Args:
        first, second: records as :func:`read_report` returns them.

    Returns:
        What is compared, and how it compares.

    Raises:
        ValueError: if the reports are of other data or another ball, or share no image.
    """
    for name, a, b in (("data", first["data"], second["data"]), ("eps or norm", _ball(first), _ball(second))):
        if a != b:
            raise ValueError(f"the reports differ in {name}, so their images can't be paired: {a} and {b}")
    a, b = _shared(Outcomes.decode(first["outcomes"]), Outcomes.decode(second["outcomes"]))
    compared = {"clean": compare(a["clean"] == 1, b["clean"] == 1)}
    for name in first["attacks"]:
        if name in second["attacks"]:
            compared[name] = compare(a[name] == 1, b[name] == 1)
    return compared | {"worst case": compare(_worst(a), _worst(b))}


def _ball(record: dict[str, Any]) -> list[Any]:
    settings = next(iter(record["attacks"].values()))["settings"]
    return [settings[name] for name in BALL]


def _worst(outcomes: Outcomes) -> torch.Tensor:
    return torch.minimum(outcomes["clean"], outcomes.worst(*ROLES)) == 1


def _shared(a: Outcomes, b: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both, on the images they share."""
    parts = [
        Outcomes({name: values[torch.isin(one["index"], other["index"])] for name, values in one.columns.items()})
        for one, other in ((a, b), (b, a))
    ]
    if not len(parts[0]) or not torch.equal(parts[0]["label"], parts[1]["label"]):
        raise ValueError("the reports share no image, or label them differently; test both on the same set")
    return parts[0], parts[1]


def main(arguments: list[str]) -> None:
    """Print the comparison; a mistake is one line and exit status 2."""
    try:
        if len(arguments) != 2:
            raise ValueError("give two robustness.json files or run folders")
        first, second = (read_report(path) for path in arguments)
        compared = compare_reports(first, second)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name, comparison in compared.items():
        print(f"{name}: {comparison}")


if __name__ == "__main__":
    main(sys.argv[1:])
