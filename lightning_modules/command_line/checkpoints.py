"""Checkpoints, looked at before they are believed."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lightning_modules.command_line.config_files import flatten


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a Lightning checkpoint onto the CPU, tensors and plain data only.

    Raises:
        ValueError: if the file is no checkpoint, is cut short, or holds anything but tensors and plain data.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(f"{path} is not a readable checkpoint: {reason[:160] or type(error).__name__}") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this project: it has no state_dict")
    return checkpoint


def checkpoint_config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The ``model`` and ``data`` a checkpoint was trained with, in flat form; empty where it carries none."""
    config = yaml.safe_load(checkpoint.get("config", "")) or {}
    return flatten({key: config[key] for key in ("model", "data") if config.get(key)})


def check_fits(path: Path, checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Raise ``ValueError`` unless the checkpoint has just the tensors of ``module``, in their shapes."""
    stored, wanted = checkpoint["state_dict"], module.state_dict()
    shape = {name: tuple(getattr(value, "shape", ())) for name, value in wanted.items()}
    problems = [f"{name} is missing" for name in wanted if name not in stored]
    problems += [f"{name} is not in the network" for name in stored if name not in wanted]
    problems += [
        f"{name} has shape {tuple(stored[name].shape)}, the network {shape[name]}"
        for name in wanted
        if name in stored and tuple(getattr(stored[name], "shape", ())) != shape[name]
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{path} does not fit this network: {problems[0]}{more}; pass the config it was trained with")
