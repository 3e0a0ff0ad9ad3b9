"""What checkpoints and early stopping may watch."""

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping

from lightning_modules.callbacks import WeightAverage
from lightning_modules.command_line.monitors import check_monitors


@pytest.mark.parametrize(
    ("monitor", "others"),
    [
        ("val/robust_loss", []),
        ("train/natural_loss", []),  # by TRADES
        ("val/average_robust_accuracy", [WeightAverage()]),
        ("val/robust_accuracy_of_mine", [type("Mine", (Callback,), {})()]),
    ],
)
def test_what_is_logged_may_be_watched(monitor, others):
    check_monitors([EarlyStopping(monitor, mode="min" if monitor.endswith("loss") else "max"), *others])


@pytest.mark.parametrize(
    ("monitor", "answer"),
    [
        ("val/xx", r"monitors val/xx, which is never logged\. There are val/loss"),
        ("train/accuracyy", r"did you mean train/accuracy\?"),
        ("val/average_robust_accuracy", r"logged by WeightAverage only; add --config ema\.yaml"),
    ],
)
def test_what_is_not_logged_is_refused(monitor, answer):
    with pytest.raises(ValueError, match=answer):
        check_monitors([EarlyStopping(monitor, mode="max")])
