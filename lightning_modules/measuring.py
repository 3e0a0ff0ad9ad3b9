"""The precision in which accuracies are measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute in the dtype of the weights: without autocast, without TF32 and without ``cudnn.benchmark``.

    TF32, which keeps ten bits of the mantissa, is PyTorch's default for convolutions on NVIDIA GPUs since Ampere: a
    figure measured with it would not be in float32. ``cudnn.benchmark`` times all algorithms for every new batch size,
    and the batches of an attack shrink at every step. On exit, the previous settings are restored.
    """
    cudnn: Any = torch.backends.cudnn
    switches = [(torch.backends.cuda.matmul, "allow_tf32"), (cudnn, "allow_tf32"), (cudnn, "benchmark")]
    before = [getattr(*switch) for switch in switches]
    try:
        for backend, name in switches:
            setattr(backend, name, False)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (backend, name), value in zip(switches, before, strict=True):
            setattr(backend, name, value)
