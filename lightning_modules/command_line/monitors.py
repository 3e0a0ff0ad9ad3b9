"""Checks, before training, what checkpoints and early stopping watch."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from lightning_modules.callbacks import WeightAverage

_VALIDATED = ("val/loss", "val/robust_loss", "val/clean_accuracy", "val/robust_accuracy")
_AVERAGED = ("val/average_clean_accuracy", "val/average_robust_accuracy")
_TRAINED = ("train/loss", "train/accuracy", "lr", "images_per_second", "epoch_seconds", "peak_memory_mb")
_OURS = ("lightning_modules", "pytorch_lightning")


def check_monitors(callbacks: Iterable[Any]) -> None:
    """Raise ``ValueError`` if a callback watches a misspelt value, or takes a loss for better where it is higher.

    Lightning notices a misspelt name only after the first epoch, and a wrong direction never. Names that an objective
    (``train/...``) or a callback of the user may log are accepted.

    Example:
        >>> from pytorch_lightning.callbacks import EarlyStopping
        >>> check_monitors([EarlyStopping(monitor="val/robust", mode="max")])
        Traceback (most recent call last):
        ValueError: EarlyStopping monitors val/robust, which is never logged; did you mean val/robust_loss or ...? ...
    """
    callbacks = list(callbacks)
    averaged = _AVERAGED if any(isinstance(item, WeightAverage) for item in callbacks) else ()
    known = (*_VALIDATED, *averaged, *_TRAINED)
    ours = all(type(item).__module__.partition(".")[0] in _OURS for item in callbacks)
    for callback in callbacks:
        monitor, name = getattr(callback, "monitor", None), type(callback).__name__
        if monitor is None:
            continue
        if monitor in _AVERAGED and not averaged:
            raise ValueError(f"{name} monitors {monitor}, which is logged by WeightAverage only; add --config ema.yaml")
        validated = ours and monitor.startswith("val/")
        near = get_close_matches(monitor, known, n=2, cutoff=0.6 if validated else 0.9)
        if monitor not in known and (validated or near):
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise ValueError(f"{name} monitors {monitor}, which is never logged{hint} There are {', '.join(known)}")
        better = {"loss": "min", "accuracy": "max"}.get(monitor.rpartition("_")[2].rpartition("/")[2])
        mode = getattr(callback, "mode", better)
        if better and mode != better:
            raise ValueError(
                f"{name} monitors {monitor} with mode {mode}, so it would choose the worst; set its mode to {better}"
            )
