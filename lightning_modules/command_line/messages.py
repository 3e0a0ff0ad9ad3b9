"""What the libraries below print: their advertisements are silenced, and each warning is printed once."""

import logging
import sys
import warnings
from typing import Any

from pytorch_lightning.utilities import rank_zero_only


def is_first() -> bool:
    """Whether this process is rank 0; before there is a Trainer, this is read from the launcher's environment."""
    return getattr(rank_zero_only, "rank", 0) == 0


def quieten() -> None:
    """Silence Lightning's advertisements and its warnings about itself; print any other warning once, on rank 0."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # a profiler's table is a log message
    # says that it ends all processes of a run because one has ended
    logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    for message in (".*LeafSpec.*is deprecated", ".*does not have many workers"):
        warnings.filterwarnings("ignore", message)
    printed: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if is_first() and str(message) not in printed:
            printed.add(str(message))
            print(f"warning: {message}", file=sys.stderr, flush=True)

    warnings.showwarning = show


def say_engines() -> None:
    """Let ``kafnets`` print which engine computes the activations, once, when it is chosen."""
    log = logging.getLogger("kafnets")
    if is_first() and not log.handlers:
        log.setLevel(logging.INFO)
        log.addHandler(logging.StreamHandler(sys.stdout))
