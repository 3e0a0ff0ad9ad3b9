"""Numbers that are read from a device without leaving it idle."""

import torch
from torch import Tensor


class Later:
    """Numbers on their way from a device to the CPU.

    ``.item()`` and ``bool()`` wait until a GPU has done everything that is queued, and nothing is queued meanwhile.
    Here the copy is queued at once, and :meth:`read` waits for the copy alone: if more work was queued in between, the
    GPU goes on with that work. Work on a CPU is never queued, so there nothing waits.

    Args:
        numbers: scalars on one device, bool or int64.

    Example:
        >>> x = torch.tensor([3, 1, 2])
        >>> Later(x.min(), x.max(), (x > 1).all()).read()
        [1, 3, 0]
    """

    def __init__(self, *numbers: Tensor) -> None:
        stacked = torch.stack([number.detach().to(torch.int64) for number in numbers])
        # from a GPU to pinned memory, which PyTorch allocates for copies that do not block
        self._numbers = stacked.to("cpu", non_blocking=stacked.is_cuda)
        self._arrived = torch.cuda.current_stream(stacked.device).record_event() if stacked.is_cuda else None

    def read(self) -> list[int]:
        """The numbers, in order."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers.tolist()
