"""Training on clean images."""

from torch import Tensor

from lightning_modules.classifier import Classifier


class StandardTraining(Classifier):
    """Train on the images as they are; see :class:`~lightning_modules.classifier.Classifier` for the arguments."""

    def training_inputs(self, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """The clean images."""
        return x
