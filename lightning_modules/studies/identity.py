"""What a result depends on: the settings of a member, and the source code."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.command_line.arguments import resolve, take
from lightning_modules.command_line.config_files import flatten
from lightning_modules.provenance import PLACES, ROOT

_PATHS = {*(f"data.{name}" for name in PLACES), "ckpt_path"}
_CODE = ("kafnets", "lightning_modules", "datamodules", "cli.py")
_SUFFIXES = {".py", ".cpp", ".h"}
# code that reads results and changes none
_NO_PART = (
    "kafnets/analysis/over_runs.py",
    "kafnets/analysis/activation_statistics.py",
    "kafnets/analysis/activation_study.py",
    "kafnets/analysis/rank_correlation.py",
    "kafnets/plots/",
    "kafnets/saved/",
    "lightning_modules/comparison/",
    "lightning_modules/dashboard/",
    "lightning_modules/export/",
    "lightning_modules/inspection/",
    "lightning_modules/pages/",
    "lightning_modules/studies/",
)


def settings_of(arguments: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Return the settings of a command line by dotted name: its configs, merged, and over them its flags.

    Paths of data and of run folders are left out, and so is what only the code says, such as defaults.

    Args:
        arguments: of ``cli.py``, beginning with ``fit``.
        folders: where bare names of configs are looked up.

    Raises:
        ConfigError, ValueError: if a config can't be found or read.
    """
    _, _, config, *flags = resolve(arguments, folders)
    settings = dict(_dotted(flatten(yaml.safe_load(config))))
    names = dict.fromkeys(flag.partition("=")[0] for flag in flags if flag.startswith("--"))
    for name in names:
        value = take(flags, name)[0][-1]
        settings[name.removeprefix("--")] = _loaded(value)
    return {name: value for name, value in settings.items() if name not in _PATHS and not name.startswith("run.")}


def without_loggers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the loggers, which change no result.

    Example:
        >>> without_loggers({"trainer.max_epochs": 3, "trainer.logger": [{"class_path": "Wandb"}]})
        {'trainer.max_epochs': 3}
    """
    return {name: value for name, value in settings.items() if not re.match(r"trainer\.logger\b", name)}


def without_paths(arguments: Sequence[str]) -> list[str]:
    """Return a command line without the paths of data and checkpoints.

    Example:
        >>> without_paths(["fit", "--config", "short", "--data.path=/home/me/images.tar", "--data.batch_size=64"])
        ['fit', '--config', 'short', '--data.batch_size=64']
    """
    return take(list(arguments), *(f"--{name}" for name in _PATHS))[1]


def _dotted(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _dotted(item, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def sha256_of(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in which settings two members differ, at most three of them.

    Example:
        >>> differences({"a": 1, "b": 2}, {"a": 1.5, "c": 3})
        'a was 1, is 1.5; b was 2, is not set; c was not set, is 3'
    """
    names = [name for name in dict.fromkeys([*old, *new]) if _value(old, name) != _value(new, name)]
    told = [f"{name} was {_value(old, name)}, is {_value(new, name)}" for name in names[:3]]
    return "; ".join([*told, *([f"and {len(names) - 3} more settings"] if len(names) > 3 else [])])


def _value(settings: Mapping[str, Any], name: str) -> str:
    return str(settings[name]) if name in settings else "not set"


def source_sha256(root: Path = ROOT) -> str:
    """Return the SHA-256 of all source files that can change a result, by their paths within the project.

    Documentation, configs, tests, pictures and the studies themselves are no part of it.
    """
    found = hashlib.sha256()
    files = [file for part in _CODE for file in ([root / part] if part.endswith(".py") else (root / part).rglob("*"))]
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files if file.suffix in _SUFFIXES):
        if not name.startswith(_NO_PART):
            found.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
