"""Read the files of a tar or a zip into memory: nothing is unpacked, and every checksum in it is verified."""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.links import Refused, follow_links

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")

# What the readers of the standard library raise for damaged archives (RuntimeError: an encrypted or unknown kind of
# zip; the other plain errors: damaged headers).
_READ_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)


class _Link(NamedTuple):
    target: str
    hard: bool = False


def is_archive(path: Path) -> bool:
    """Whether the name of ``path`` is that of an archive which can be read."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def read_archive(path: Path) -> dict[str, bytes | Refused]:
    """Return the files of an archive by name, with links followed; of two files of the same name, the later one.

    The checksums of gzip, xz, bzip2 and zip are verified to the end of the file. A plain tar has none for its contents.

    Raises:
        OSError: if the archive is damaged.
        ValueError: if the name of a file leads out of the archive.
    """
    kind, members = ("zip", _zip_members) if path.suffix.lower() == ".zip" else ("tar", _tar_members)
    files: dict[str, bytes | Refused] = {}
    links: dict[str, str] = {}
    try:
        for raw_name, content in members(path):
            name = _clean(raw_name)
            if isinstance(content, _Link) and content.hard:
                # A hard link is another name of the file as it is at this point of the archive.
                target = _clean(content.target)
                missing = Refused(f"the hard link {name} -> {target} leads to no file stored before it")
                content = _Link(links[target]) if target in links else files.get(target, missing)
            for earlier in (files, links):
                earlier.pop(name, None)
            if isinstance(content, _Link):
                links[name] = content.target
            else:
                files[name] = content
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"the {kind} {path} is corrupt or cut short ({reason}); copy or download it again") from error
    for name in (*files, *links):
        if ".." in name.split("/"):
            raise ValueError(f"{path} holds {name}, a name that leads out of the archive; pack the files again")
    return follow_links(files, links)


def _clean(name: str) -> str:
    return "/".join(part for part in PurePosixPath(name).parts if part != "/")


def _tar_members(path: Path) -> Iterator[tuple[str, bytes | Refused | _Link]]:
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                yield member.name, content.read()
            elif member.issym() or member.islnk():
                yield member.name, _Link(member.linkname, hard=member.islnk())
            elif not member.isdir():
                yield member.name, Refused(f"{member.name} is neither a file, a folder nor a link")
        _check_end(tar)


def _check_end(tar: tarfile.TarFile) -> None:
    # tarfile takes a damaged header for the end of the archive, and would silently skip the images behind it. It also
    # stops reading there, before the checksum of a compressed stream, which is verified only when its end is read.
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    padding = 0
    while block := stream.read(1 << 16):
        if block.count(0) != len(block):
            raise tarfile.ReadError("no end-of-archive mark after the last readable file, or more data behind it")
        padding += len(block)
    if padding < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end-of-archive mark after the last readable file")


def _zip_members(path: Path) -> Iterator[tuple[str, bytes | Refused | _Link]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            content = archive.read(member)  # which verifies the checksum
            if stat.S_ISLNK(member.external_attr >> 16):
                yield member.filename, _Link(content.decode())
            elif not member.is_dir():
                yield member.filename, content
