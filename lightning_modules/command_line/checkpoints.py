"""Reads checkpoints and checks them before they are used."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kafnets.files import load_tensors
from lightning_modules.command_line.config_files import flatten
from lightning_modules.command_line.trusted_names import check_names


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a Lightning checkpoint onto the CPU, tensors and plain data only.

    Raises:
        ValueError: if the file is no checkpoint, is cut short, or holds anything but tensors and plain data.
    """
    try:
        checkpoint = load_tensors(path)
    except OSError as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this project: it has no state_dict")
    state = checkpoint["state_dict"]
    # an objective may keep more than a tensor, as Free does, and checks it itself
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) or (isinstance(value, dict) and str(name).endswith("_extra_state"))
        for name, value in state.items()
    ):
        raise ValueError(f"{path} is not a checkpoint of this project: its state_dict does not hold tensors by name")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} holds weights that are not finite ({broken[0]}); it can't be tested or trained further"
        )
    return checkpoint


def last_readable(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """Return the first checkpoint that can be read, with its content, and print why those before it are refused.

    Args:
        paths: the newest first.

    Raises:
        ValueError: if there are checkpoints, but none can be read: what is wrong with the newest.
    """
    refused: list[ValueError] = []
    for path in paths:
        try:
            found = path, read_checkpoint(path)
        except ValueError as error:
            refused.append(error)
            continue
        for reason in refused:
            print(f"refused: {reason}", file=sys.stderr)
        if refused:
            print(f"going on from the checkpoint before it: {path}", file=sys.stderr)
        return found
    if refused:
        raise refused[0]
    return None


def checkpoint_config(path: Path, checkpoint: dict[str, Any], trusted: Iterable[str] = ()) -> dict[str, Any]:
    """Return ``model`` and ``data`` of a checkpoint's configuration, in flat form; empty if it carries none.

    Args:
        path: path of the checkpoint, for error messages.
        checkpoint: result of :func:`read_checkpoint`.
        trusted: packages, besides this project's, whose classes and functions it may name.

    Raises:
        ValueError: if it is damaged, or names what a checkpoint must not name; see :mod:`.trusted_names`.
    """
    try:
        config = yaml.safe_load(checkpoint.get("config", "")) or {}
        parts = {key: config[key] for key in ("model", "data") if config.get(key)}
        fits = all(isinstance(part, dict) for part in parts.values())
    except (yaml.YAMLError, AttributeError, TypeError, KeyError):
        fits, parts = False, {}
    if not fits:
        raise ValueError(f"{path} carries a configuration that is no YAML mapping with model and data; it is damaged")
    flat = flatten(parts)
    check_names(flat, str(path), trusted)
    return flat


def check_resumable(
    path: Path, checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer, *, averages: bool
) -> None:
    """Raise ``ValueError`` unless training can be resumed from a checkpoint.

    Args:
        path: path of the checkpoint, for error messages.
        checkpoint: result of :func:`read_checkpoint`.
        optimizer: the optimizer of the run.
        averages: whether the run averages weights.
    """
    missing = [key for key in ("epoch", "global_step", "optimizer_states", "loops") if key not in checkpoint]
    if missing:
        raise ValueError(
            f"{path} holds weights alone (no {missing[0]}), so training can't go on from it; test it, or start anew"
        )
    states = checkpoint["optimizer_states"]
    stored = [group for state in states for group in state["param_groups"]]
    names = [set(group) - {"params", "param_names"} for group in stored]
    expected = [set(group) - {"params", "param_names"} for group in optimizer.param_groups]
    if names != expected:
        raise ValueError(
            f"{path} was trained with another optimizer than {type(optimizer).__name__}; "
            "pass the config of that training"
        )
    if "live_net" in checkpoint and not averages:
        raise ValueError(
            f"{path} holds an average of weights, which training can't go on from without averaging; "
            "pass --config ema.yaml, or the WeightAverage of that training"
        )


def check_fits(path: Path, checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Raise ``ValueError`` unless the checkpoint has exactly the tensors of ``module``, in the same shapes."""
    stored, wanted = checkpoint["state_dict"], module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in stored]
    problems += [f"{name} is not in the network" for name in stored if name not in wanted]
    problems += [
        f"{name} has shape {_shape(stored[name])}, the network {_shape(wanted[name])}"
        for name in wanted
        if name in stored and _shape(stored[name]) != _shape(wanted[name])
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{path} does not fit this network: {problems[0]}{more}; pass the config it was trained with")


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
