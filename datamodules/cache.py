"""A folder for what is slow to make and can be made again: written whole or not at all."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/kafnets``, or ``~/.cache/kafnets`` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kafnets"


def check_writable(folder: Path) -> None:
    """Make ``folder`` if need be.

    Raises:
        OSError: if nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into the cache {folder} ({error}); give another with cache=...") from error


def save_tensors(value: Any, file: Path) -> None:
    """Write ``value`` with ``torch.save``; processes that do so at once each leave a whole file.

    Raises:
        OSError: if it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            torch.save(value, stream)
        temporary.replace(file)
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot write {file} ({error}); free some space or give another cache with cache=...") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(file: Path) -> Any:
    """Read what :func:`save_tensors` wrote; tensors and plain containers only.

    Raises:
        OSError: if it cannot be read.
    """
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:  # torch.load answers a damaged file with half a dozen types
        raise OSError(
            f"the cached images {file} cannot be read ({error}); delete the file to have it made again"
        ) from error
