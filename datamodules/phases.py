"""Phases of a training: image size and batch size from epoch to epoch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Some epochs at one image size and one batch size.

    Args:
        epochs: how long it lasts, >= 1.
        image_size: height and width of the training images in pixels, >= 1.
        batch: its batch size as a multiple of that of the data module, > 0.

    Raises:
        ValueError: if a value is out of its range.
    """

    epochs: int
    image_size: int
    batch: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a phase must be >= 1, got {getattr(self, name)}")
        if not self.batch > 0:
            raise ValueError(f"batch of a phase is a multiple of batch_size, > 0, got {self.batch}")

    def batch_size(self, whole: int) -> int:
        """Return the number of images of a batch, where ``whole`` is that of the data module.

        Raises:
            ValueError: if it is not an integer.
        """
        size = self.batch * whole
        if abs(size - round(size)) > 1e-6 or round(size) < 1:
            raise ValueError(
                f"batch={self.batch} of the phase at {self.image_size} pixels makes {size:g} images of "
                f"batch_size={whole}; change one of them so that the product is a whole number"
            )
        return round(size)


def check_length(phases: Sequence[Phase], max_epochs: int) -> None:
    """Check that the phases last as long as the run.

    Raises:
        ValueError: if they do not.
    """
    total = sum(phase.epochs for phase in phases)
    if total != max_epochs:
        lengths = " + ".join(str(phase.epochs) for phase in phases)
        end = "before the run" if total < max_epochs else "after the run"
        raise ValueError(
            f"the phases of the data end {end}: {lengths} = {total} epochs, and trainer.max_epochs={max_epochs}; set "
            f"--trainer.max_epochs={total}, or change the epochs of data.phases"
        )


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase:
    """Return the phase of an epoch, counted from 0; from the end of the last phase on, the last.

    Example:
        >>> plan = [Phase(epochs=6, image_size=128), Phase(epochs=6, image_size=224)]
        >>> [phase_at(plan, epoch).image_size for epoch in (0, 5, 6)]
        [128, 128, 224]
    """
    for phase in phases:
        if epoch < phase.epochs:
            return phase
        epoch -= phase.epochs
    return phases[-1]
