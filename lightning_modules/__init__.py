"""LightningModules that train and evaluate any backbone with any objective and any attack."""

from lightning_modules.adversarial import AdversarialTraining
from lightning_modules.classifier import Classifier
from lightning_modules.standard import StandardTraining

__all__ = ["AdversarialTraining", "Classifier", "StandardTraining"]
