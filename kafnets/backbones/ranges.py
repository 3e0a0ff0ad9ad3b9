"""Checks that several backbones share: sizes, dropout rates, momentum."""

from collections.abc import Sequence


def check_sizes(**sizes: int) -> None:
    """Raise a ``ValueError`` if a size is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")


def check_dropout(rates: Sequence[float], *, count: int) -> None:
    """Raise a ``ValueError`` unless there are ``count`` dropout rates in [0, 1)."""
    if len(rates) != count or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"dropout must be {count} rates in [0, 1), got {tuple(rates)}; 0 switches one off")


def check_momentum(momentum: float) -> None:
    """Raise a ``ValueError`` if a batch-norm momentum is outside (0, 1]."""
    if not 0 < momentum <= 1:
        raise ValueError(f"bn_momentum must be in (0, 1], got {momentum}; Keras's 0.99 is 0.01 here")
