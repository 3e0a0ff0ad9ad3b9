"""Reads a tested run folder that belongs to no study as the record of a run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.comparison.labels import labels
from lightning_modules.provenance import PLACES
from lightning_modules.studies.collect import collect, read_history
from lightning_modules.studies.member_record import Record


def read_run_folder(folder: Path) -> tuple[Record, str]:
    """Return the record of a tested run folder, and what identifies its training besides the seed.

    The axes of the record are all labels of the run. After a separate ``test``, configuration and history are those of
    the run folder of the checkpoint, where it still exists.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    record = collect(folder)
    record["axes"] = labels(record)
    home = _training_folder(folder)
    record["history"] = record["history"] or read_history(home / "history.csv")
    return record, _training_settings(home)


def _training_folder(folder: Path) -> Path:
    checkpoint = json.loads((folder / "results.json").read_text(encoding="utf-8")).get("checkpoint")
    home = Path(checkpoint).parent.parent if checkpoint else folder
    return home if (home / "config.yaml").is_file() else folder


def _training_settings(home: Path) -> str:
    """A digest of the configuration without folders and seeds; the path of a run whose configuration is gone."""
    config = home / "config.yaml"
    if not config.is_file():
        return str(home)
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{config} can't be read: {error}") from None
    kept = {name: value for name, value in settings.items() if name in ("model", "data", "trainer")}
    return hashlib.sha256(json.dumps(_without_seeds(kept), sort_keys=True, default=str).encode()).hexdigest()


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_seeds(item) for name, item in value.items() if name not in ("seed", *PLACES)}
    return [_without_seeds(item) for item in value] if isinstance(value, list) else value
