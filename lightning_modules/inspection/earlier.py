"""The networks of earlier inspections, which are shown beside those measured now."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = 1


def earlier_networks(paths: Sequence[str], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the networks of earlier inspections.

    Args:
        paths: folders of inspections, or their ``inspect.json``.
        about: ``data``, ``images``, ``images_sha256`` and ``attack`` of this one, with which they must agree.

    Raises:
        ValueError: in one line, if one of them is no inspection, or was measured on other images or with another
            attack.
    """
    found = []
    for path in paths:
        record = _read(Path(path) / "inspect.json" if Path(path).is_dir() else Path(path))
        for name, value in about.items():
            if record.get(name) != value:
                raise ValueError(
                    f"--add {path} has {name} {str(record.get(name))[:40]}, this inspection {str(value)[:40]}; give "
                    "the same --images, --attack and data"
                )
        found += record["networks"]
    return found


def check_once(networks: Sequence[Mapping[str, Any]]) -> None:
    """Check that no checkpoint is among the networks twice: it would count twice in the correlations.

    Raises:
        ValueError: if one is.
    """
    seen: set[str] = set()
    for each in networks:
        if each["checkpoint_sha256"] in seen:
            raise ValueError(f"{each['checkpoint']} is given twice by --ckpt_path and --add; give each checkpoint once")
        seen.add(each["checkpoint_sha256"])


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} can't be read as an inspection: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("networks"), list):
        raise ValueError(f"{file} is no inspect.json of this version; run inspect on its checkpoints again")
    return record
