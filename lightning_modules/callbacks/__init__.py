"""Callbacks around training and evaluation: one per file."""

from lightning_modules.callbacks.best_and_last import BestAndLast
from lightning_modules.callbacks.certificate_report import CertificateReport
from lightning_modules.callbacks.collapse import Collapse
from lightning_modules.callbacks.epoch_bar import EpochBar
from lightning_modules.callbacks.epoch_lines import EpochLines
from lightning_modules.callbacks.evaluation_progress import EvaluationProgress
from lightning_modules.callbacks.finite_loss import FiniteLoss
from lightning_modules.callbacks.gradient_norms import GradientNorms
from lightning_modules.callbacks.history import History
from lightning_modules.callbacks.kwta_ratio import KWTARatio
from lightning_modules.callbacks.learning_rate_range import LearningRateRange
from lightning_modules.callbacks.overfitting_guard import OverfittingGuard
from lightning_modules.callbacks.pictures import Pictures
from lightning_modules.callbacks.predictions import Predictions
from lightning_modules.callbacks.results import Results
from lightning_modules.callbacks.robustness_report import RobustnessReport
from lightning_modules.callbacks.run_config import RunConfig
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.callbacks.weight_average import WeightAverage

__all__ = [
    "BestAndLast",
    "CertificateReport",
    "Collapse",
    "EpochBar",
    "EpochLines",
    "EvaluationProgress",
    "FiniteLoss",
    "GradientNorms",
    "History",
    "KWTARatio",
    "LearningRateRange",
    "OverfittingGuard",
    "Pictures",
    "Predictions",
    "Results",
    "RobustnessReport",
    "RunConfig",
    "Throughput",
    "WeightAverage",
]
