"""The provenance of a figure, part of every record of a test."""

import hashlib
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from kafnets.attacks.identity import digest, network_digest
from lightning_modules.files import sha256

ROOT = Path(__file__).resolve().parents[1]


def provenance(trainer: Trainer, module: Any) -> dict[str, Any]:
    """Return ``checkpoint`` and its SHA-256, ``run`` (network, activation, training), ``data``, ``seed`` and ``dtype``.

    ``code`` is the version of the code, see :func:`code_version`. Two more hashes cover what the checkpoint's hash does
    not: ``network_sha256`` is that of the network as built (normalisation, ratios), ``data_sha256`` that of the first
    hundred test images with their labels.

    Args:
        trainer: the trainer, during a test.
        module: the :class:`~lightning_modules.classifier.Classifier` it tests.
    """
    checkpoint = trainer.ckpt_path
    images: Any = trainer.test_dataloaders.dataset  # type: ignore[union-attr]
    x, y, _ = images[torch.arange(min(len(images), 100))]
    return {
        "checkpoint": str(checkpoint) if checkpoint else None,
        "checkpoint_sha256": sha256(Path(checkpoint)) if checkpoint else None,
        "network_sha256": network_digest(module.net),
        "run": module.labels(),
        "data": type(trainer.datamodule).__name__,  # type: ignore[attr-defined]
        "data_sha256": hashlib.sha256((digest(x) + digest(y)).encode()).hexdigest(),
        "seed": module.seed,
        "dtype": str(next(module.net.parameters()).dtype).removeprefix("torch."),
        "tf32": False,  # see lightning_modules.measuring
        "code": code_version(),
    }


@cache
def code_version() -> str:
    """Return the package's version and the git commit, as ``0.1.0 1a2b3c...``; ``-dirty`` after changes."""
    output = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return f"{_package_version()} without git"
        if done.returncode:
            return f"{_package_version()} without git"
        output.append(done.stdout.strip())
    return f"{_package_version()} {output[0]}{'-dirty' if output[1] else ''}"


def _package_version() -> str:
    try:
        return metadata.version("kafnets")
    except metadata.PackageNotFoundError:
        return "not installed"
