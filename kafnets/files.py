"""Files that are always either whole or absent, and that are checked when they are read."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` to write to, and rename it to ``path`` when the body has ended.

    At any moment, also after a kill, ``path`` is the old file or the new one, never a part. After an exception the old
    file stays and the temporary one is deleted. Each process has a temporary file of its own, so several may write at
    the same time.

    Args:
        path: in a folder that exists; the temporary file has the same suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder) / "a.txt") as part:
        ...         _ = part.write_text("all of it")
        ...     [file.name for file in Path(folder).iterdir()]
        ['a.txt']
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what ``torch.save`` wrote: tensors and plain containers only, with the checksums that it has written.

    Raises:
        OSError: with the reason, if there is no such file, or it is damaged or of another format.
    """
    try:
        if zipfile.is_zipfile(path):  # torch.load does not compare the checksums
            with zipfile.ZipFile(path) as archive:
                if name := archive.testzip():
                    raise zipfile.BadZipFile(f"the checksum of {name} is wrong")
        elif _begins_as_zip(path):  # a zip file, whose directory is its end
            raise zipfile.BadZipFile("it is cut short")
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # both raise many types of errors for damaged files
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise OSError(reason[:160] or type(error).__name__) from error


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
