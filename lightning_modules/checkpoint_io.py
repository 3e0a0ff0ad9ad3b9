"""Atomic writing of checkpoints."""

from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from kafnets.files import written_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary file in the same folder, then rename it: a killed process leaves no partial checkpoint.

    Lightning's plugin uses the system's temporary folder; from there, a move to another file system is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save to a local file."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as part:
            torch.save(checkpoint, part)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load; weights alone, as other tools save them, count as saved by the Lightning that is here."""
        checkpoint = super().load_checkpoint(*args, **kwargs)
        checkpoint.setdefault("pytorch-lightning_version", pytorch_lightning.__version__)
        return checkpoint
