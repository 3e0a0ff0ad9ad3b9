"""Several processes of one run: what the others say when one of them has ended."""

import os
import re
import time

from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

_PARENT = os.getppid()
# gloo raises RuntimeError for anything; NCCL and the store raise DistError
_LOST = re.compile(r"[Cc]onnection (reset|closed|refused)|Broken pipe|[Tt]imed out waiting")


def lost_process(error: RuntimeError) -> str | None:
    """Return a line about an error that comes from the end of another process; None for any other error.

    Rank 0 has something to say. If it is rank 0 that has ended, rank 1 has; the others return an empty line.
    """
    if not isinstance(error, distributed.DistError) and not ("gloo" in str(error) and _LOST.search(str(error))):
        return None
    rank = getattr(rank_zero_only, "rank", 0)
    if rank:
        time.sleep(1)  # a process that is killed closes its connections before it is gone
        if rank > 1 or os.getppid() == _PARENT:
            return ""
    return (
        f"rank {rank} has lost another process of this run, which failed or was killed; a fit goes on from its last "
        "finished epoch with --ckpt_path last"
    )
