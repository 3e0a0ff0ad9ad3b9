"""Small runs on the handwritten digits."""

import csv

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger

from datamodules import CropFlip, Digits
from kafnets.activations import ReLU
from kafnets.attacks import PGD
from kafnets.backbones import KafVGG
from kafnets.fused import Fused
from kafnets.threat import ThreatModel
from lightning_modules import AdversarialTraining, StandardTraining
from lightning_modules.callbacks import BestAndLast


def small_net(**settings):
    torch.manual_seed(0)
    return KafVGG(**{"activation": ReLU, "width": 4, "hidden": 8, "image_size": 8, "in_channels": 1} | settings)


@pytest.fixture
def make_net():
    return small_net


@pytest.fixture
def make_module():
    """A module with cheap attacks and momentum; ``standard=True`` trains on clean images."""

    def make(*, standard=False, **settings):
        common = {
            "net": small_net(),
            "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-3),
            "threat": ThreatModel(eps=0.1),
            "val_attack": PGD(step_size=0.05, steps=2),
            "val_images": 30,
            "test_attack": PGD(step_size=0.05, steps=2),
            "test_images": 40,
            "attack_view": Fused,
        }
        if standard:
            return StandardTraining(**common | settings)
        return AdversarialTraining(**common | settings)

    return make


@pytest.fixture
def make_data():
    return lambda **settings: Digits(**{"batch_size": 32, "augment": CropFlip(padding=1)} | settings)


@pytest.fixture
def make_trainer(tmp_path):
    """A quiet trainer with four batches per epoch and its run folder in ``tmp_path / name``."""

    def make(*callbacks, name="run", **settings):
        checkpoints = BestAndLast(
            monitor="val/robust_accuracy",
            mode="max",
            filename="best-{epoch:03d}",
            save_last=True,
            save_on_train_epoch_end=True,
        )
        quiet = {"enable_model_summary": False, "limit_train_batches": 4, "limit_val_batches": 1, "max_epochs": 2}
        quiet |= {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
        if settings.pop("quiet", True):
            quiet["enable_progress_bar"] = False
        return Trainer(
            **quiet | {"logger": CSVLogger(tmp_path, name, 0), "callbacks": [*callbacks, checkpoints]} | settings
        )

    return make


@pytest.fixture
def logged():
    """The values of a metric in the file of the CSV logger."""

    def read(trainer, name):
        with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
            return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]

    return read
