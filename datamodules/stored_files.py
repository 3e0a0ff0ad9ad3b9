"""Find the files of a data set in a folder or an archive, whatever they mean; links are followed inside it."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from datamodules.archives import ARCHIVE_SUFFIXES, is_archive, read_archive
from datamodules.links import Refused

SPLITS = ("train", "test", "val")
# Deepest file of a folder without splits: <one folder>/<class>/<image>.
_FLAT_DEPTH = 3

# A file of a folder is read when it is decoded, one of an archive together with the archive.
StoredFiles: TypeAlias = dict[str, bytes | Path | Refused]


def check_path(path: Path) -> None:
    """Check that ``path`` is a folder or an archive.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if it is something else.
    """
    kinds = f"a folder or a {', '.join(ARCHIVE_SUFFIXES)}"
    if not path.exists():
        raise FileNotFoundError(f"there are no images at {path.resolve()}; give {kinds}")
    if not path.is_dir() and not is_archive(path):
        raise ValueError(f"{path} is not {kinds}; unpack it, and give the folder")


def stored_files(path: Path) -> StoredFiles:
    """Return the visible files by their names below ``path``, sorted.

    In a folder, only ``train``, ``test`` and ``val`` are searched, there and one level deeper; if there is none of
    them, three levels. A link is followed if it stays below ``path`` and is :class:`~datamodules.links.Refused`
    otherwise.
    """
    stored: StoredFiles = dict(_folder_files(path)) if path.is_dir() else dict(read_archive(path))
    return {name: stored[name] for name in sorted(stored) if not any(part[0] == "." for part in name.split("/"))}


def _folder_files(path: Path) -> Iterator[tuple[str, Path | Refused]]:
    root = path.resolve()
    # Not the whole tree is searched, in case a user gives a home folder by mistake.
    children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
    parents = [root, *(child for child in children if child.is_dir())]
    tops = [top for parent in parents for split in SPLITS if os.path.lexists(top := parent / split)]
    depth = math.inf
    if not tops:
        tops, depth = children, _FLAT_DEPTH - 1
    for top in tops:
        yield from _visit(top, root, depth, (root,))


def _visit(path: Path, root: Path, depth: float, above: tuple[Path, ...]) -> Iterator[tuple[str, Path | Refused]]:
    """Yield the file ``path``, or those at most ``depth`` levels below the folder ``path``."""
    name = path.relative_to(root).as_posix()
    real = path
    if path.is_symlink() or path.is_dir():
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a link to itself, before Python 3.13
            yield name, Refused(f"the link {name} -> {os.readlink(path)} leads to nothing")
            return
    if not real.is_relative_to(root):
        yield name, Refused(f"{name} leads to {real}, outside {root}")
    elif real in above:
        yield name, Refused(f"{name} leads to {real}, which holds it: a circle")
    elif real.is_dir() and depth == 0:
        yield name, Refused(f"{name} is a folder where an image is expected")
    elif real.is_dir():
        for child in os.scandir(path):
            if child.is_file(follow_symlinks=False):
                yield f"{name}/{child.name}", path / child.name
            elif not child.name.startswith("."):
                yield from _visit(path / child.name, root, depth - 1, (*above, real))
    elif real.is_file():
        yield name, path
    else:
        yield name, Refused(f"{name} is neither a file, a folder nor a link")
