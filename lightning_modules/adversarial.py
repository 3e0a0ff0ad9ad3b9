"""Adversarial training."""

from typing import Any

from kafnets.objectives import Adversarial, Objective
from lightning_modules.classifier import Classifier


class AdversarialTraining(Classifier):
    """Train against perturbations within the threat model of the run.

    Args:
        objective: the loss of a training step; fast adversarial training (FGSM with a random start) by default.
        kwargs: see :class:`~lightning_modules.classifier.Classifier`.
    """

    def __init__(self, *, objective: Objective | None = None, **kwargs: Any) -> None:
        super().__init__(objective=objective or Adversarial(), **kwargs)
