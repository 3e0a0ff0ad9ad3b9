"""Reads a ``robustness.json``, and refuses one that no test can have written."""

import json
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import counted


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a ``robustness.json``, or the one in a run folder.

    Raises:
        ValueError: if there is none, it is of another format, or its parts do not agree.
    """
    file = Path(path) / "robustness.json" if Path(path).is_dir() else Path(path)
    try:
        record = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        _check(record)
    except KeyError as error:
        raise ValueError(f"{file} is no robustness.json of this project: it lacks {error}") from None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is no robustness.json of this project, or damaged: {error}") from None
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _check(record: dict[str, Any]) -> None:
    outcomes = PerImageResults.decode(record["outcomes"])
    labels = outcomes.columns["label"]
    if not bool(((labels >= 0) & (labels == labels.floor())).all()):  # false for NaN
        raise ValueError("its labels must be integers >= 0")
    _check_counts("images", record["images"], len(outcomes))
    worst = outcomes.columns["clean"]
    for name in ("clean", *record["attacks"]):
        right = outcomes.columns[name]
        if not bool(((right == 0) | (right == 1)).all()):
            raise ValueError(f"{name} must be 0 or 1 for each of its {len(outcomes)} images")
        worst = torch.minimum(worst, right)
        stated, found = record["attacks"].get(name, record["clean"]), counted(right)
        _check_counts(f"right images of {name}", stated["right"], found["right"])
        _check_counts(f"images of {name}", stated["images"], found["images"])
    _check_counts("right images of worst_case", record["worst_case"]["right"], int(worst.sum()))
    for name, settings in ((name, attack["settings"]) for name, attack in record["attacks"].items()):
        if not (isinstance(settings["norm"], str) and type(settings["eps"]) in (int, float)):
            raise ValueError(f"{name} states norm {settings['norm']!r} and eps {settings['eps']!r}")
    _check_rest(record)


def _check_counts(name: str, stated: Any, found: int) -> None:
    if type(stated) is not int or stated != found:
        raise ValueError(f"it states {stated!r} {name}, and its outcomes are those of {found}")


def _check_rest(record: dict[str, Any]) -> None:
    if not (isinstance(record["data"], str) and isinstance(record["data_sha256"], str)):
        raise ValueError("data and data_sha256 must be text")
    for name, facts in record["facts"].items():
        if not (isinstance(facts, list) and all(isinstance(fact, str) for fact in facts)):
            raise ValueError(f"its facts {name} must be a list of texts")
    for name, seconds in record["seconds"].items():
        if type(seconds) not in (int, float) or not (isfinite(seconds) and seconds >= 0):
            raise ValueError(f"the seconds of {name} must be a number >= 0, got {seconds!r}")
