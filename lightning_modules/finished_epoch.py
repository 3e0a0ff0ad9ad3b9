"""Checkpoints that were saved after the last step of an epoch."""

from typing import Any


def finish_epoch(checkpoint: dict[str, Any]) -> None:
    """Count an epoch as finished if the checkpoint was saved in its last step, in place.

    Lightning finds out whether it was by comparing the batches that were trained with the number of batches of the next
    epoch. Where that has more, as in another phase of the data, it would take the next epoch for a started one.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    batches, epoch = loop.get("epoch_loop.batch_progress"), loop.get("epoch_progress")
    if not batches or not epoch or not batches["is_last_batch"]:
        return
    if batches["total"]["completed"] != batches["total"]["processed"] - 1:
        return  # it was saved later, and the counters are right
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    for extent in ("total", "current"):
        batches[extent]["completed"] += 1
        epoch[extent]["processed"] += 1
