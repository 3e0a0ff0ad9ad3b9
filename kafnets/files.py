"""Writing files so that they are always either whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
