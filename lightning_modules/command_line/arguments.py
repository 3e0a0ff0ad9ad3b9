"""What happens to the command line before Lightning parses it."""

import re
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.command_line.checkpoints import checkpoint_config, read_checkpoint
from lightning_modules.command_line.config_files import expand, load_layers, merge
from lightning_modules.command_line.run_folder import check_name, find_checkpoint, run_of
from lightning_modules.command_line.trusted_names import packages_named

SUBCOMMANDS = ("fit", "validate", "test", "predict")
ASKING = {"-h", "--help", "--print_config"}  # nothing runs


def take(arguments: list[str], *flags: str) -> tuple[list[str], list[str]]:
    """Split off every ``flag value`` and ``flag=value``: the values in order, and the arguments left.

    Example:
        >>> take(["fit", "--config", "a.yaml", "--x=1", "--config=b.yaml"], "--config")
        (['a.yaml', 'b.yaml'], ['fit', '--x=1'])
    """
    values, left, rest = [], [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in flags:
            values.append(value if equals else next(rest, ""))
        else:
            left.append(argument)
    return values, left


def resolve(arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Replace all ``--config`` by one that holds everything, below all flags, and ``--ckpt_path`` by a file.

    From weakest to strongest: the configuration inside the checkpoint (``model`` and ``data``), the config files in
    order, the flags. Where nobody gave ``--run.name`` and ``--run.dir``, a fit is named by its config files, joined by
    ``+``, and everything that starts from a checkpoint goes beside the run that the checkpoint is from.

    Raises:
        ConfigError, ValueError: if a config or a checkpoint can't be found or read.
        ValueError: if there is no checkpoint where one is needed.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        return list(arguments)
    names, flags = take(list(arguments[1:]), "--config", "-c")
    layers = [layer for name in names for layer in load_layers(name, folders)]
    files: dict[str, Any] = reduce(merge, layers, {})
    asked = dict(files.get("run", {}))
    for key in ("dir", "name"):
        if flag := take(flags, f"--run.{key}")[0]:
            asked[key] = flag[-1]
    run = {"dir": "runs", "name": "+".join(Path(name).stem for name in names) or "unnamed"} | asked
    check_name(Path(run["dir"]), run["name"])
    given, flags = take(flags, "--ckpt_path")
    wanted = given[-1] if given else files.get("ckpt_path")
    config = files
    if not wanted and arguments[0] != "fit" and not ASKING & {flag.partition("=")[0] for flag in flags}:
        raise ValueError(f"{arguments[0]} needs --ckpt_path: best, last, a run folder or a file")
    if wanted:
        path = find_checkpoint(wanted, Path(run["dir"]), run["name"])
        if (arguments[0] != "fit" or not names) and (home := run_of(path)):
            run = {"dir": str(home.parent.parent), "name": home.parent.name} | asked
        trusted = packages_named([files, flags])
        config = reduce(merge, layers, checkpoint_config(path, read_checkpoint(path), trusted))
        flags = [*flags, "--ckpt_path", str(path)]
    config = merge(config, {"run": run})
    config.pop("ckpt_path", None)
    return [arguments[0], "--config", yaml.safe_dump(expand(config), sort_keys=False), *flags]


# what a Trainer reads as a number of batches where it is an integer, and as a share of them where it is not
_BATCHES_OR_SHARE = re.compile(r"(limit_(train|val|test|predict)_batches|val_check_interval)")


def counts_of_batches(arguments: Sequence[str]) -> dict[str, int]:
    """The Trainer's settings that were written as integers, in flags or in the YAML of ``--config``: they are counts.

    A parser that knows the type as "a number" reads 1 as 1.0, which means all of them.

    Example:
        >>> counts_of_batches(["fit", "--trainer.limit_test_batches=1", "--trainer.limit_val_batches", "0.5"])
        {'limit_test_batches': 1}
    """
    configs, flags = take(list(arguments), "--config")
    found: dict[str, Any] = {}
    for text in configs:
        found |= (yaml.safe_load(text) or {}).get("trainer") or {}
    rest = iter(flags)
    for flag in rest:
        name, equals, value = flag.partition("=")
        if name.startswith("--trainer.") and _BATCHES_OR_SHARE.fullmatch(name.removeprefix("--trainer.")):
            found[name.removeprefix("--trainer.")] = yaml.safe_load(value if equals else next(rest, ""))
    settings = {name: value for name, value in found.items() if _BATCHES_OR_SHARE.fullmatch(name)}
    return {name: value for name, value in settings.items() if isinstance(value, int) and not isinstance(value, bool)}
