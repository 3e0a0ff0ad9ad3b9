"""SIGUSR1, which clusters send before the time of a job is over."""

import os
import signal
from types import FrameType

from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Trainer

received: list[int] = []


def stop_on_sigusr1(trainer: Trainer) -> None:
    """Let SIGUSR1 stop a run as SIGTERM does, unless Lightning requeues the job on it (SLURM)."""
    environment = trainer._accelerator_connector.cluster_environment
    if hasattr(signal, "SIGUSR1") and not (isinstance(environment, SLURMEnvironment) and environment.auto_requeue):
        received.clear()
        signal.signal(signal.SIGUSR1, _stop)


def status() -> int:
    """The exit status of a run that a signal has stopped."""
    return 128 + (received[-1] if received else signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    received.append(number)
    os.kill(os.getpid(), signal.SIGTERM)
