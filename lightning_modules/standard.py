"""Training on clean images."""

from typing import Any

from kafnets.objectives import Clean
from lightning_modules.classifier import Classifier


class StandardTraining(Classifier):
    """Train on clean images.

    Args:
        objective: the loss on clean images; the cross-entropy by default.
        kwargs: see :class:`~lightning_modules.classifier.Classifier`.
    """

    def __init__(self, *, objective: Clean | None = None, **kwargs: Any) -> None:
        super().__init__(objective=objective or Clean(), **kwargs)
