"""The progress of a test: in the bar on a terminal, as lines elsewhere."""

import threading
import time
from typing import Any

from pytorch_lightning import Callback, Trainer

from lightning_modules.callbacks.epoch_bar import EpochBar


class EvaluationProgress(Callback):
    """Show what a test is doing, clean and robust accuracy so far, and the time left.

    A thread of its own does so, because one batch can take many minutes. Rank 0 shows the images that it knows of.

    Args:
        every: seconds between two lines, > 0; on a terminal, :class:`EpochBar` shows the same, updated every second.
    """

    def __init__(self, every: float = 60.0) -> None:
        if not every > 0:
            raise ValueError(f"every must be > 0 seconds, got {every}")
        self.every = every
        self._stop: threading.Event | None = None

    def tell(self, doing: str, *, clean: tuple[int, int], robust: tuple[int, int], share: float) -> None:
        """Set what is shown, in place of the counts of the test.

        Args:
            doing: what is computed now, such as the name of an attack.
            clean, robust: images that are classified correctly, and images measured, so far.
            share: share of the work that is done, in [0, 1]; the time left is unknown at 0.
        """
        self._state, self._told = (doing, clean, robust, share), True

    def text(self) -> str:
        """What is shown now."""
        doing, clean, robust, share = self._state
        passed = time.monotonic() - self._begun
        parts = [doing]
        parts += [f"{name} {right} of {n}" for name, (right, n) in (("clean", clean), ("robust", robust)) if n]
        left = f", about {passed * (1 - share) / share / 60:.1f} min left" if share else ""
        parts.append(f"{passed / 60:.1f} min{left}")
        return " | ".join(parts)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the thread, on rank 0."""
        if not trainer.is_global_zero:
            return
        self._begun, self._stop = time.monotonic(), threading.Event()
        self._state, self._told = (str(pl_module.test_attack), (0, 0), (0, 0), 0.0), False
        bar = trainer.progress_bar_callback
        shown = bar if isinstance(bar, EpochBar) and bar.is_enabled else None
        threading.Thread(target=self._show, args=(self._stop, shown), daemon=True).start()

    def on_test_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Every batch begins with the test's own attack."""
        if self._stop is not None:
            self._state = (str(pl_module.test_attack), *self._state[1:])

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Take over the counts of the test, unless a report tells its own."""
        if self._stop is None or self._told:
            return
        clean, robust = pl_module.test.clean, pl_module.test.robust
        images = len(trainer.test_dataloaders.dataset)  # type: ignore[union-attr]
        wanted = min(pl_module.test_images or images, images)
        self._state = (
            self._state[0],
            (int(clean.clean_right), int(clean.total)),
            (int(robust.robust_right), int(robust.total)),
            min(int(robust.total) * trainer.world_size / wanted, 1.0),
        )

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop the thread."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Stop the thread."""
        self.on_test_end(trainer, pl_module)

    def _show(self, stop: threading.Event, bar: EpochBar | None) -> None:
        while not stop.wait(1.0 if bar else self.every):
            if bar:
                bar.show(self.text())
            else:
                print(f"test | {self.text()}", flush=True)


def progress_of(trainer: Trainer) -> EvaluationProgress | None:
    """The :class:`EvaluationProgress` of a trainer, if it has one."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((item for item in callbacks if isinstance(item, EvaluationProgress)), None)
