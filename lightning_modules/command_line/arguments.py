"""Prepares the command line for Lightning's parser."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.command_line.checkpoints import checkpoint_config, last_readable, read_checkpoint
from lightning_modules.command_line.config_files import expand, load_layers, merge
from lightning_modules.command_line.run_folder import check_name, find_checkpoint, newest_checkpoints, run_of
from lightning_modules.command_line.trusted_names import packages_named

SUBCOMMANDS = ("fit", "validate", "test", "predict")
ASKING = {"-h", "--help", "--print_config"}  # flags that print and run nothing


def take(arguments: list[str], *flags: str) -> tuple[list[str], list[str]]:
    """Split off every ``flag value`` and ``flag=value``; return the values in order, and the other arguments.

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
    """Merge all ``--config`` into one, placed before all flags, and replace ``--ckpt_path`` by the path of a file.

    From weakest to strongest: the configuration inside the checkpoint (``model`` and ``data``), the config files in
    order, the flags. Without ``--run.name`` and ``--run.dir``, the name of a fit is that of its config files, joined by
    ``+``, and a command that starts from a checkpoint writes next to the run of that checkpoint.

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
    found = _checkpoint(wanted, Path(run["dir"]), run["name"], resumes=arguments[0] == "fit") if wanted else None
    config = files
    if not found and arguments[0] != "fit" and not ASKING & {flag.partition("=")[0] for flag in flags}:
        raise ValueError(f"{arguments[0]} needs --ckpt_path: best, last, a run folder or a file")
    if found:
        path, checkpoint = found
        if (arguments[0] != "fit" or not names) and (home := run_of(path)):
            run = {"dir": str(home.parent.parent), "name": home.parent.name} | asked
        trusted = packages_named([files, flags])
        config = reduce(merge, layers, checkpoint_config(path, checkpoint, trusted))
        flags = [*flags, "--ckpt_path", str(path)]
    config = merge(config, {"run": run})
    config.pop("ckpt_path", None)
    return [arguments[0], "--config", yaml.safe_dump(expand(config), sort_keys=False), *flags]


def _checkpoint(wanted: str, folder: Path, name: str, *, resumes: bool) -> tuple[Path, dict[str, Any]] | None:
    """The path and the content of what ``--ckpt_path`` stands for; None for ``last_if_any`` where there is none.

    A run that resumes from ``last`` takes the checkpoint before it if that is damaged: the run may have died, or the
    disk have been full, while it was written. A test of other weights than those asked for would be another test.
    """
    last = newest_checkpoints(folder, name, "last") if wanted in ("last", "last_if_any") else []
    if last and resumes:
        return last_readable(newest_checkpoints(folder, name, "last", "best"))
    if wanted == "last_if_any" and not last:  # for launchers that start the same command line again
        return None
    path = find_checkpoint("last" if wanted == "last_if_any" else wanted, folder, name)
    return path, read_checkpoint(path)
