"""Loads the network of a checkpoint."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from kafnets.backbones import Backbone
from lightning_modules.command_line.checkpoints import checkpoint_config, read_checkpoint
from lightning_modules.command_line.config_files import expand


def load_classifier(path: str | Path) -> Backbone:
    """Return the network of a checkpoint of this project, in evaluation mode on the CPU.

    The checkpoint carries the configuration it was trained with, so no config file is needed.

    Args:
        path: a ``.ckpt`` file.

    Returns:
        A module from images float32 ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``; it normalises by itself.

    Raises:
        ValueError: if the file is no such checkpoint, carries no configuration, or does not fit it.
    """
    return load_with_settings(path)[0]


def load_with_settings(
    path: str | Path, trusted: Iterable[str] = ()
) -> tuple[Backbone, dict[str, Any], dict[str, Any]]:
    """Return the network as :func:`load_classifier` does, the settings ``model`` and ``data``, and the checkpoint.

    Args:
        path: a ``.ckpt`` file.
        trusted: packages, besides this project's, whose classes and functions the checkpoint may name.

    Raises:
        ValueError: as :func:`load_classifier`.
    """
    checkpoint = read_checkpoint(Path(path))
    settings = checkpoint_config(Path(path), checkpoint, trusted)
    if not settings.get("model", {}).get("net"):
        raise ValueError(f"{path} carries no configuration, so its network can't be built; give one saved by cli.py")
    built = build(Backbone, settings["model"]["net"])
    stored = checkpoint["state_dict"]
    weights = {name.removeprefix("net."): value for name, value in stored.items() if name.startswith("net.")}
    try:
        built.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the network of its configuration: {' '.join(str(error).split())}"
        ) from None
    return built.eval(), settings, checkpoint


def build(kind: type, settings: Any) -> Any:
    """Build a part of a checkpoint's settings, such as its network as it was before training.

    Args:
        kind: the class of the part, or a base class of it.
        settings: in flat form, as :func:`load_with_settings` returns them; their names have been checked.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    return parser.instantiate(parser.parse_object({"it": expand(settings)})).it
