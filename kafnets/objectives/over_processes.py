"""A mean over the processes of a distributed training."""

import torch
from torch import Tensor, distributed


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value over all processes; every process must call it, with the same shape and dtype.

    Example:
        >>> mean_over_processes(torch.tensor(2.0))  # a single process
        tensor(2.)
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    # contiguous on every process: processes add up memory, in whatever order its values lie there
    total = value.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
