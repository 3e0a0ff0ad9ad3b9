"""The precision in which accuracies are measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute in the dtype of the weights: without autocast and without TF32.

    TF32, which keeps ten bits of the mantissa, is PyTorch's default for convolutions on NVIDIA GPUs since Ampere: a
    figure measured with it would not be in float32. On exit, the previous settings are restored.
    """
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
