"""Where a figure comes from: what every record of a test must say."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from lightning_modules.files import sha256


def provenance(trainer: Trainer, module: Any) -> dict[str, Any]:
    """``checkpoint`` and its SHA-256, ``run`` (network, activation, training), ``data``, ``seed`` and ``dtype``.

    Args:
        trainer: in the middle of a test.
        module: the :class:`~lightning_modules.classifier.Classifier` it tests.
    """
    checkpoint = trainer.ckpt_path
    return {
        "checkpoint": str(checkpoint) if checkpoint else None,
        "checkpoint_sha256": sha256(Path(checkpoint)) if checkpoint else None,
        "run": module.labels(),
        "data": type(trainer.datamodule).__name__,  # type: ignore[attr-defined]
        "seed": module.seed,
        "dtype": str(next(module.net.parameters()).dtype).removeprefix("torch."),
    }
