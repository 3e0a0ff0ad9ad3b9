"""The cache folder, for files that can be made again; each is written whole or not at all."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/kafnets``, or ``~/.cache/kafnets`` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kafnets"


def check_writable(folder: Path) -> None:
    """Create ``folder`` if necessary, and check that files can be written into it.

    Raises:
        OSError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into the cache {folder} ({error}); give another with cache=...") from error


def save_tensors(value: Any, file: Path) -> None:
    """Write ``value`` with ``torch.save``; readers and other writers never meet a partial file.

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
        OSError: if it cannot be read, or is not as it was written.
    """
    try:
        # torch.load does not compare the checksums that torch.save has written.
        with zipfile.ZipFile(file) as archive:
            if name := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {name} is wrong")
        return torch.load(file, weights_only=True)
    except Exception as error:  # torch.load raises many types of errors for damaged files
        raise damaged(file, error) from error


def peek_tensors(file: Path) -> Any:
    """Map what :func:`save_tensors` wrote into memory, without reading or checking the content of its tensors.

    Raises:
        OSError: if it cannot be read.
    """
    try:
        return torch.load(file, weights_only=True, mmap=True)
    except Exception as error:  # as in load_tensors
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> OSError:
    """Return the error for a cached file that cannot be used because of ``error``."""
    return OSError(f"the cached images {file} cannot be read ({error}); delete the file, and it will be made again")
