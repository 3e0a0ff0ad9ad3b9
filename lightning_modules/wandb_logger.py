"""Weights & Biases, with or without a login."""

import os
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from lightning_modules.provenance import study_name


def logged_in() -> bool:
    """Whether an API key is in the environment or from ``wandb login``; no prompt, no use of the network."""
    return wandb.login(prompt=False, verify=False)


class Wandb(WandbLogger):
    """Lightning's WandbLogger, offline if nobody is logged in; Lightning's own stops and asks.

    An offline run is kept in ``save_dir/wandb``; ``wandb sync`` uploads it later. Hyper-parameters, metrics and
    pictures go where the CSV logger's go.

    Args:
        project: project of the dashboard.
        group: group of runs to compare; None for the study that the run is a member of, if any.
        job_type: kind of run, such as ``fit`` or ``test``.
        save_dir: folder of offline runs; None for the folder of all runs (``--run.dir``).
        offline: True never connects. None (the default) connects if there is a login and WANDB_MODE is not set.
        kwargs: passed on to WandbLogger.
    """

    def __init__(
        self,
        *,
        project: str = "kafnets",
        group: str | None = None,
        job_type: str | None = None,
        save_dir: str | None = None,
        offline: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if offline is None:
            offline = "WANDB_MODE" not in os.environ and not logged_in()
        if offline:
            kwargs["mode"] = "offline"  # Lightning sets WANDB_MODE after wandb has read it
        super().__init__(
            project=project,
            save_dir=save_dir or "runs",
            offline=offline,
            group=group or study_name(),
            job_type=job_type,
            **kwargs,
        )
        self._chosen = save_dir is not None

    def keep_in(self, folder: str) -> None:
        """Keep offline runs in this folder, unless ``save_dir`` was given; called before the run begins."""
        if not self._chosen:
            self._save_dir = self._wandb_init["dir"] = folder
            os.makedirs(folder, exist_ok=True)  # wandb falls back to another folder if it is missing
