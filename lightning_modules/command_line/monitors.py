"""Checks, before training, what checkpoints and early stopping watch."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_VALIDATED = ("val/loss", "val/clean_accuracy", "val/robust_accuracy")
_AVERAGED = ("val/average_clean_accuracy", "val/average_robust_accuracy")  # by WeightAverage
_KNOWN = (
    *_VALIDATED,
    *_AVERAGED,
    "train/loss",
    "train/accuracy",
    "lr",
    "images_per_second",
    "epoch_seconds",
    "peak_memory_mb",
)


def check_monitors(callbacks: Iterable[Any]) -> None:
    """Raise ``ValueError`` if a callback watches a misspelt value, or takes a loss for better where it is higher.

    Lightning notices a misspelt name only after the first epoch, and a wrong direction never. Names that an objective
    or another callback may log are accepted.

    Example:
        >>> from pytorch_lightning.callbacks import EarlyStopping
        >>> check_monitors([EarlyStopping(monitor="val/robust", mode="max")])
        Traceback (most recent call last):
        ValueError: EarlyStopping monitors val/robust, which is never logged; did you mean val/robust_accuracy? ...
    """
    for callback in callbacks:
        monitor, name = getattr(callback, "monitor", None), type(callback).__name__
        if monitor is None:
            continue
        near = get_close_matches(monitor, _KNOWN, n=1)
        if monitor not in _KNOWN and (monitor.startswith("val/") or near):
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name} monitors {monitor}, which is never logged{hint} There are {', '.join(_KNOWN)}")
        better = {"loss": "min", "accuracy": "max"}.get(monitor.rpartition("_")[2].rpartition("/")[2])
        mode = getattr(callback, "mode", better)
        if better and mode != better:
            raise ValueError(
                f"{name} monitors {monitor} with mode {mode}, so it would choose the worst; set its mode to {better}"
            )
