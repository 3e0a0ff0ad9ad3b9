"""The measured figures of a checkpoint, from the run folders of its tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lightning_modules.command_line.run_folder import run_of, runs_of
from lightning_modules.read_report import read_report

DATA = ("data", "data_images", "data_classes", "data_sha256")
COUNTED = ("accuracy", "wilson95_low", "wilson95_high", "images")


class Measured(NamedTuple):
    """What the tests of a network found: ``metrics`` and RobustBench's ``claim``, each None if there is no such test.

    ``others`` are the run folders that tested the same checkpoint as another network, through flags.
    """

    metrics: dict[str, Any] | None
    claim: dict[str, Any] | None
    others: list[Path]


def measured(checkpoint: Path, hashes: dict[str, str | None], folders: Iterable[str]) -> Measured:
    """Collect the tests of a checkpoint: in the runs of its name, and in ``folders``.

    Args:
        checkpoint: the file.
        hashes: ``checkpoint_sha256`` and ``network_sha256`` as the records of tests state them.
        folders: further run folders, each of which must have tested this network.

    Raises:
        ValueError: if one of ``folders`` did not, or a record can't be read.
    """
    home = run_of(checkpoint)
    given = [Path(folder) for folder in folders]
    around = [*(runs_of(home.parent.parent, home.parent.name) if home else []), *given]
    tests, reports, others = [], [], []
    for folder in dict.fromkeys(around):
        records = [_read(folder / "results.json"), _report(folder)]
        found = [record for record in records if record and _agree(record, hashes, "checkpoint_sha256")]
        same = [record for record in found if _agree(record, hashes, "network_sha256")]
        if folder in given and not same:
            raise ValueError(f"{folder} holds no test of this network; leave it out of --tests")
        others += [folder] if found and not same else []
        tests += [record for record in same if record is records[0]]
        reports += [(record, folder) for record in same if record is records[1]]
    test = max(tests, key=lambda record: record["robust"]["images"], default=None)
    report, where = max(reports, key=lambda pair: pair[0]["images"], default=(None, None))
    metrics = (_of_test(test) if test else {}) | (_of_report(report) if report else {})
    return Measured(metrics or None, _read(where / "robustbench.json") if where else None, others)


def _agree(record: dict[str, Any], hashes: dict[str, str | None], name: str) -> bool:
    """Whether both state the same hash; a network without an identity has none, and agrees with nothing."""
    return record.get(name) is not None and record.get(name) == hashes[name]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is no object of JSON")
        return record
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from None


def _report(folder: Path) -> dict[str, Any] | None:
    return read_report(folder) if (folder / "robustness.json").is_file() else None


def _of_test(record: dict[str, Any]) -> dict[str, Any]:
    robust = record["robust"] | {"attack": record["attack"]}
    return {"test": _data(record) | {"clean": record["clean"], "robust": robust}}


def _of_report(record: dict[str, Any]) -> dict[str, Any]:
    attacks = {name: _counted(found) | {"attack": found["settings"]} for name, found in record["attacks"].items()}
    figures = {"clean": _counted(record["clean"]), "worst_case": _counted(record["worst_case"]), "attacks": attacks}
    checks = {check["name"]: check["status"] for check in record["checks"]}
    return {"full_evaluation": _data(record) | figures | {"checks": checks}}


def _data(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in DATA if name in record}


def _counted(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in COUNTED}
