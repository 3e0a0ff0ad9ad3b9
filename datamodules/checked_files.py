"""Every image is decoded once before training, and what was found is remembered."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from datamodules.cache import check_writable, damaged, load_tensors, save_tensors
from datamodules.class_folders import list_files
from datamodules.decoding import decode_rgb
from datamodules.file_table import UNCHECKED, FileTable, tabulate

# To be increased with every change of which images are read or refused.
_VERSION = 1
_ROWS = 5000  # files between two saves at the earliest
_SECONDS = 30.0
_NAMED = 5  # images that an error names


class Checked(NamedTuple):
    """Files that have all been decoded once.

    Args:
        table: the files.
        class_names: the name of each label.
    """

    table: FileTable
    class_names: tuple[str, ...]


def index_file(cache: Path, path: Path, class_names: tuple[str, ...]) -> Path:
    """Return where the index of these classes of a folder is kept."""
    key = repr((_VERSION, str(path.resolve()), class_names))
    return cache / f"{path.resolve().name}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.index.pt"


def check_images(path: Path, class_names: tuple[str, ...], file: Path) -> None:
    """Decode every image that is new or has changed since the index ``file`` was written, and write it anew.

    A check that is stopped goes on where it was: the index is saved every half minute.

    Raises:
        ValueError: if images cannot be used; the error names the first of them.
        OSError: if the index cannot be used.
    """
    check_writable(file.parent)
    table = tabulate(*list_files(path, class_names), class_names)
    known = load_index(file).table if file.exists() else None
    if known is not None:
        table = table.with_known(known)
    todo = (table.hashes == UNCHECKED).nonzero().flatten()
    problems = _check(path, table, todo, class_names, file)
    if known is None or not known.equals(table):
        _save(table, class_names, file)
    if problems:
        named = "; ".join(problems[:_NAMED]) + ("; ..." if len(problems) > _NAMED else "")
        raise ValueError(
            f"{path}: {len(problems):,} of {len(table.hashes):,} images cannot be used: {named}; replace or delete "
            "them (what was checked is remembered)"
        )


def load_index(file: Path) -> Checked:
    """Read an index that :func:`check_images` has written.

    Raises:
        OSError: if it is damaged.
    """
    stored: Any = load_tensors(file)
    try:
        return Checked(FileTable(**stored["table"]), tuple(stored["class_names"]))
    except (KeyError, TypeError) as error:
        raise damaged(file, error) from error


def _save(table: FileTable, class_names: tuple[str, ...], file: Path) -> None:
    save_tensors({"table": table._asdict(), "class_names": class_names}, file)


def _check(path: Path, table: FileTable, todo: Tensor, class_names: tuple[str, ...], file: Path) -> list[str]:
    """Fill in the hashes of the rows ``todo``, and return what is wrong with those that cannot be used."""
    problems: list[str] = []
    saved = time.monotonic()
    done = 0
    # threads, because Pillow decodes without Python's lock
    with ThreadPoolExecutor(_cores()) as pool:
        for rows in todo.split(_ROWS):
            names = [table.name(row) for row in rows.tolist()]
            for row, (content, problem) in zip(rows, pool.map(lambda name: _look(path, name), names), strict=True):
                table.hashes[row] = content
                problems += [problem] if problem else []
            done += len(rows)
            if time.monotonic() - saved > _SECONDS:
                _save(table, class_names, file)
                rank_zero_info(f"{path}: {done:,} of {len(todo):,} images checked")
                saved = time.monotonic()
    return problems


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _look(path: Path, name: str) -> tuple[int, str | None]:
    """Return the hash of a file, or ``UNCHECKED`` and why it cannot be used."""
    try:
        data = (path / name).read_bytes()
        decode_rgb(data, name)
    except (OSError, ValueError) as error:
        return UNCHECKED, str(error).partition(";")[0]
    content = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)
    return content or 1, None
