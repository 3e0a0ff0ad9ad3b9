"""Weights & Biases, also without a login."""

import os
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger


def logged_in() -> bool:
    """Whether a key is at hand: in the environment or from ``wandb login``. Never asks, never reaches the network."""
    return wandb.login(prompt=False, verify=False)


class Wandb(WandbLogger):
    """Lightning's WandbLogger that runs offline where nobody is logged in, instead of stopping to ask.

    An offline run is kept in ``save_dir/wandb``; ``wandb sync`` uploads it later. Hyper-parameters, metrics and
    pictures go where the CSV logger's go.

    Args:
        project: project of the dashboard.
        group: what the run is compared within, such as the name of a study.
        job_type: ``fit`` or ``test``, or what the study calls it.
        save_dir: where offline runs are kept.
        offline: True never connects. None (the default) connects where there is a login and WANDB_MODE is not set.
        kwargs: handed on to WandbLogger.
    """

    def __init__(
        self,
        *,
        project: str = "kafnets",
        group: str | None = None,
        job_type: str | None = None,
        save_dir: str = "runs",
        offline: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if offline is None:
            offline = "WANDB_MODE" not in os.environ and not logged_in()
        if offline:
            kwargs["mode"] = "offline"  # wandb has read its settings before Lightning sets WANDB_MODE
        super().__init__(project=project, save_dir=save_dir, offline=offline, group=group, job_type=job_type, **kwargs)
