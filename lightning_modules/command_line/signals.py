"""Signals that stop a run between two steps: SIGUSR1, which clusters send before a job's time is over, and Ctrl-C."""

import os
import signal
import sys
from types import FrameType

from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Trainer

received: list[int] = []


def stop_on_signals(trainer: Trainer) -> None:
    """Let SIGUSR1 and SIGINT stop a run as SIGTERM does; a second SIGINT interrupts it at once.

    Where Lightning requeues a SLURM job on SIGUSR1, it keeps that signal.
    """
    received.clear()
    environment = trainer._accelerator_connector.cluster_environment
    if hasattr(signal, "SIGUSR1") and not (isinstance(environment, SLURMEnvironment) and environment.auto_requeue):
        signal.signal(signal.SIGUSR1, _stop)
    signal.signal(signal.SIGINT, _stop)


def status() -> int:
    """The exit status of a run that a signal has stopped."""
    return 128 + (received[-1] if received else signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    ready = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)  # Lightning waits for SIGTERM
    if number == signal.SIGINT and (number in received or not ready):
        raise KeyboardInterrupt
    received.append(number)
    if number == signal.SIGINT:
        print("stopping after this step; Ctrl-C once more stops at once", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
