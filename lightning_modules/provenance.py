"""Where a figure comes from: what every record of a test must say."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from kafnets.attacks.suite_state import digest, network_digest
from lightning_modules.files import sha256


def provenance(trainer: Trainer, module: Any) -> dict[str, Any]:
    """``checkpoint`` and its SHA-256, ``run`` (network, activation, training), ``data``, ``seed`` and ``dtype``.

    Two more hashes tell what a checkpoint leaves open: that of the network as built (normalisation, ratios), and that
    of the first hundred test images with their labels.

    Args:
        trainer: in the middle of a test.
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
    }
