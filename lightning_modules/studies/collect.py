"""Collects what a run folder holds into the record of a member."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kafnets.analysis.per_image_results import PerImageResults
from lightning_modules.read_report import read_report
from lightning_modules.studies.member_record import Record

_TAKEN = [
    *("run", "data", "data_images", "data_classes", "data_sha256", "code", "checkpoint_sha256", "network_sha256"),
    *("dtype", "seed", "clean", "robust", "events", "parameters", "seconds", "memory", "environment"),
]
_AXES = ("activation", "backbone", "objective", "seed")


def is_finished(folder: Path) -> bool:
    """Whether the test of a run has ended, with its report if it makes one."""
    report = folder / "robustness.json"
    if not (folder / "results.json").is_file():
        return False
    return not report.is_file() or bool(read_report(report)["complete"])


def collect(
    folder: Path,
    *,
    study: str | None = None,
    member: str | None = None,
    axes: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    config_sha256: str | None = None,
    source_sha256: str | None = None,
) -> Record:
    """Return the record of the run in a folder, see :mod:`lightning_modules.studies.member_record`.

    A run that is no member of a study gets the name of its folder, the study ``runs``, and its labels as axes.

    Args:
        folder: ``runs/.../version_<k>``, of a run that was tested.
        study, member, axes, command, config, config_sha256, source_sha256: fields of the record.

    Raises:
        ValueError: if a file is missing or damaged, or was written by a version that noted less.
    """
    results = _read_json(folder / "results.json")
    if missing := [name for name in (*_TAKEN, "attack") if name not in results]:
        raise ValueError(
            f"{folder / 'results.json'} lacks {missing[0]}; test the run again: python cli.py test --ckpt_path {folder}"
        )
    axes = {name: str(results["run"][name]) for name in _AXES} if axes is None else dict(axes)
    record = {
        "study": study or "runs",
        "member": member or f"{folder.resolve().parent.name}-{folder.name}",
        "axes": axes,
        "command": list(command or ["fit", "--config", str(folder / "config.yaml")]),
        **({} if config is None else {"config": dict(config)}),
        "config_sha256": config_sha256,
        "source_sha256": source_sha256,
    } | {name: results[name] for name in _TAKEN}
    record["robust"] = record["robust"] | {"attack": results["attack"]}
    report = folder / "robustness.json"
    record |= _of_report(read_report(report)) if report.is_file() else _of_report(None)
    shapes = folder / "activations.json"
    return record | {
        "history": read_history(folder / "history.csv"),
        "shapes": _read_json(shapes) if shapes.is_file() else [],
    }


def _of_report(report: dict[str, Any] | None) -> Record:
    if report is None:
        return {"worst_case": None, "attacks": {}, "outcomes": None, "checks": [], "eps_curve": None}
    attacks = report["attacks"]
    results = PerImageResults.decode(report["outcomes"])
    columns = {name: results[name] for name in ("index", "label", "clean", *attacks)}
    worst = {name: value for name, value in report["worst_case"].items() if name != "right"}
    curve = report["curves"].get("eps")
    return {
        "worst_case": worst | {"attacks": list(attacks)},
        "attacks": {name: {key: attack[key] for key in ("accuracy", "settings")} for name, attack in attacks.items()},
        "outcomes": PerImageResults(columns).encode(),
        "checks": [check for check in report["checks"] if check["status"] in ("warn", "fail")],
        "eps_curve": curve and [[point["at"], point["accuracy"], point["images"]] for point in curve],
    }


def read_history(path: Path) -> list[dict[str, float | None]]:
    """Return the rows of a ``history.csv``, if there is one, in six digits; None for what is missing or not finite."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _figure(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _figure(name: str, text: str) -> float | None:
    if text in ("", "nan", "inf", "-inf"):
        return None
    return int(text) if name == "epoch" else float(f"{float(text):.6g}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} can't be read: {reason}") from None
