"""Attacks, activations, backbones and metrics in plain PyTorch; :func:`load` reads an exported network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kafnets.backbones import Backbone

__all__ = ["load"]


def load(folder: str | Path, *, own: Iterable[Callable[..., Any]] = ()) -> Backbone:
    """Return the network of a folder that ``python cli.py export`` wrote, in evaluation mode on the CPU.

    It maps images float32 ``(N, in_channels, image_size, image_size)`` in [0, 1] to logits ``(N, num_classes)``, and
    normalises by itself. Nothing in the folder is run: the card may only name classes of kafnets, functions of
    ``torch.nn.functional``, and those of ``own``.

    Args:
        folder: holds ``card.json`` and ``model.safetensors``.
        own: classes and functions of yours that the network consists of.

    Raises:
        ValueError: if a file is missing, altered or of another format; if the card names anything else; or if a tensor
            is missing, unknown, or of another shape or dtype.
    """
    from kafnets.saved import read_network  # most parts of kafnets do without it

    return read_network(folder, own=own)
