"""Signals that stop a run between two steps: SIGUSR1, which clusters send before a job's time is over, and Ctrl-C."""

import os
import signal
import sys
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

received: list[int] = []


def stop_on_signals(trainer: Trainer) -> None:
    """Let SIGUSR1 and SIGINT stop a run as SIGTERM does; a second SIGINT interrupts it at once."""
    received.clear()
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, _stop)
    signal.signal(signal.SIGINT, _stop)
    if trainer.world_size > 1:
        together = StopTogether(trainer)
        trainer._signal_connector._sigterm_notifier_fn = together.note  # type: ignore[assignment, method-assign]
        trainer.callbacks.insert(0, together)  # type: ignore[attr-defined]


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


class StopTogether(Callback):
    """Stops all processes of a fit after the same step, whichever of them got the signal, and when.

    Lightning's own handler sends to the other processes while it handles the signal, between any two of their messages;
    processes that got the signal in different steps then wait for each other for ever. A test has no state to save and
    stops at once.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.asked, self._trainer = False, trainer

    def note(self, number: int, frame: Any) -> None:
        """Remember the signal, and pass it to processes that Lightning has started; the handler of SIGTERM."""
        launcher = self._trainer.strategy.launcher
        if not self.asked and launcher is not None:
            launcher.kill(number)  # type: ignore[arg-type]
        self.asked = True
        if self._trainer.state.fn != "fit":
            self._trainer._signal_connector.received_sigterm = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Ask whether a process has got a signal, unless the epoch ends here and is validated first."""
        if not trainer.is_last_batch:
            self._agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask once more, after the validation."""
        self._agree(trainer)

    def _agree(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            trainer._signal_connector.received_sigterm = True
