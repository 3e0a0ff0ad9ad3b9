"""Worker processes hand batches over in shared memory, which containers often limit to 64 MB."""

import shutil
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
BATCHES_PER_WORKER = 2  # the DataLoader's prefetch_factor


def check_shared_memory(batch_bytes: int, *, num_workers: int, processes: int = 1) -> None:
    """Check that the batches which workers prepare in advance fit into shared memory.

    Args:
        batch_bytes: the bytes of a batch.
        num_workers: worker processes of one process.
        processes: processes on this machine.

    Raises:
        ValueError: if they do not fit. On systems without ``/dev/shm`` nothing is checked.
    """
    needed = batch_bytes * BATCHES_PER_WORKER * num_workers * processes
    if not needed or not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        per_worker = batch_bytes * BATCHES_PER_WORKER * processes
        raise ValueError(
            f"num_workers={num_workers} needs {needed / 1e6:.0f} MB of shared memory for the batches that workers "
            f"prepare, and {SHARED_MEMORY} has {free / 1e6:.0f} MB free; enlarge it (docker run --shm-size=8g), or set "
            f"num_workers <= {int(free // per_worker)} or a smaller batch_size"
        )
