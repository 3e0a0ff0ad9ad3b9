"""Files that are either whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write to, and put it in the place of ``path`` when all is written.

    A reader, or a kill at any moment, meets the old file or the new one, never a part. After an exception the old file
    stays. Processes that write at once each write a file of their own.

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
