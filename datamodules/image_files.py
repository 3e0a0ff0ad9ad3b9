"""Read ``{train,test}/<class>/*.{jpg,jpeg,png}`` from a folder or a tar into tensors."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.image_tensors import ImageTensors

SPLITS = ("train", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# Channels -> PIL's mode, and the modes that convert to it without loss (colour to grey, say, would lose something).
_PIL_MODES = {1: ("L", ("1", "L")), 3: ("RGB", ("1", "L", "P", "RGB"))}
_LAYOUT = "expected [one folder/]{train,test}/<class>/<image>.{jpg,jpeg,png}"


class ImageFormat(NamedTuple):
    """The required format of decoded images.

    Args:
        channels: 1 (grey) or 3 (RGB).
        size: height and width in pixels.
        resize: resample images of another size (bilinear, antialiased, sides independently) instead of refusing them.
    """

    channels: int
    size: int
    resize: bool


class _File(NamedTuple):
    split: str
    class_name: str
    name: str
    data: bytes


def is_tar(path: Path) -> bool:
    """Whether the name of ``path`` is that of a tar."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def check_path(path: Path) -> None:
    """Check that ``path`` is a folder or a tar.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there are no images at {path.resolve()}; give a folder or a {', '.join(TAR_SUFFIXES)}"
        )
    if not path.is_dir() and not is_tar(path):
        raise ValueError(f"{path} is neither a folder nor a {', '.join(TAR_SUFFIXES)}")


def fingerprint(path: Path, image_format: ImageFormat) -> str:
    """Return 16 hexadecimal digits that change with the files' names, sizes and times and with the format."""
    digest = hashlib.blake2b(repr((str(path.resolve()), tuple(image_format))).encode(), digest_size=8)
    for file in [path] if is_tar(path) else _files_below(path):
        status = file.stat()
        digest.update(repr((str(file), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def read_images(path: Path, image_format: ImageFormat) -> dict[str, ImageTensors]:
    """Decode the images of both splits.

    Args:
        path: folder or tar. Files outside ``{train,test}`` and names that begin with a dot are ignored.
        image_format: what the images must be.

    Returns:
        ``{"train": ..., "test": ...}``; classes are numbered alphabetically, images sorted by name.

    Raises:
        ValueError: if the layout or an image is not as expected.
        OSError: if the tar or an image is corrupt.
    """
    stored = _from_tar(path) if is_tar(path) else _from_folder(path)
    files = sorted((file for name, data in stored if (file := _place(path, name, data))), key=lambda file: file.name)
    class_names = _class_names(path, files)
    return {split: _decode_split(path, split, files, class_names, image_format) for split in SPLITS}


def _files_below(folder: Path) -> list[Path]:
    # Two levels are searched, not the whole tree, in case a user gives a home folder by mistake.
    tops = [top for split in SPLITS for top in (folder / split, *folder.glob(f"*/{split}")) if top.is_dir()]
    return sorted(file for top in tops for file in top.rglob("*") if file.is_file())


def _from_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in _files_below(folder):
        yield file.relative_to(folder).as_posix(), file.read_bytes()


def _from_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()
            _check_end(tar)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise OSError(f"the tar {path} is corrupt or cut short ({error}); copy or download it again") from error


def _check_end(tar: tarfile.TarFile) -> None:
    # tarfile takes a damaged header for the end of the archive, and would silently skip the images behind it.
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise tarfile.ReadError("no end-of-archive mark after the last readable file")


def _place(path: Path, name: str, data: bytes) -> _File | None:
    parts = PurePosixPath(name).parts
    start = next((i for i, part in enumerate(parts[:2]) if part in SPLITS), None)
    if start is None or any(part.startswith(".") for part in parts):
        return None
    if len(parts) != start + 3 or not parts[-1].lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(f"{path} holds {name}; {_LAYOUT}")
    return _File(parts[start], parts[start + 1], name, data)


def _class_names(path: Path, files: list[_File]) -> tuple[str, ...]:
    tops = sorted({file.name.rpartition(f"{file.split}/{file.class_name}/")[0] for file in files})
    if len(tops) > 1:
        raise ValueError(f"{path} holds more than one data set: {tops[0] or './'}, {tops[1]}; give the path of one")
    names = {split: {file.class_name for file in files if file.split == split} for split in SPLITS}
    for split in SPLITS:
        if not names[split]:
            raise ValueError(f"{path} has no images in {split}/; {_LAYOUT}")
    if difference := names["train"] ^ names["test"]:
        raise ValueError(f"{path}: class {min(difference)!r} is in only one of train/ and test/; both need every class")
    return tuple(sorted(names["train"]))


def _decode_split(
    path: Path, split: str, files: list[_File], class_names: tuple[str, ...], image_format: ImageFormat
) -> ImageTensors:
    files = [file for file in files if file.split == split]
    number = {name: i for i, name in enumerate(class_names)}
    images = torch.stack([_decode(path, file, image_format) for file in files])
    return ImageTensors(images, torch.tensor([number[file.class_name] for file in files]), class_names)


def _decode(path: Path, file: _File, image_format: ImageFormat) -> Tensor:
    mode, accepted = _PIL_MODES[image_format.channels]
    size = (image_format.size, image_format.size)
    try:
        image = Image.open(io.BytesIO(file.data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: the image {file.name} is corrupt ({error}); replace or delete it") from error
    if image.mode not in accepted:
        raise ValueError(
            f"{path}: the image {file.name} is {image.mode}, and in_channels={image_format.channels} takes "
            f"{' or '.join(accepted)}; convert it or set in_channels"
        )
    if image.size != size and not image_format.resize:
        raise ValueError(
            f"{path}: the image {file.name} has {image.width} x {image.height} pixels, not {size[0]} x {size[1]}; "
            "set image_size, or resize=True"
        )
    pixels = image.convert(mode)
    if image.size != size:
        pixels = pixels.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).reshape(*size, image_format.channels).permute(2, 0, 1).contiguous()
