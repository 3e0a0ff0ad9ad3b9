"""Read the images of a folder or an archive into tensors."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from datamodules.decoding import ImageFormat, UnexpectedFormatError, WantedFormat, channels_and_size, decode
from datamodules.image_tensors import ImageTensors
from datamodules.layouts import ImageFile, ImageSet, describe_classes, find_images
from datamodules.stored_files import stored_files

__all__ = ["WantedFormat", "decode_images", "fingerprint", "read_images"]

# To be increased with every change of which images are read or how they are decoded: decoded images are cached.
_VERSION = 2


def fingerprint(path: Path, wanted: WantedFormat) -> str:
    """Return 16 hexadecimal digits that change with the files' names, sizes and times and with the format."""
    digest = hashlib.blake2b(repr((_VERSION, str(path.resolve()), tuple(wanted))).encode(), digest_size=8)
    files = stored_files(path) if path.is_dir() else {path.name: path}
    for name, file in files.items():
        status = file.stat() if isinstance(file, Path) else None
        identity = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else file
        digest.update(repr((name, identity)).encode())
    return digest.hexdigest()


def read_images(path: Path, wanted: WantedFormat) -> dict[str, ImageTensors]:
    """Find and decode the images of a folder or an archive; see :func:`find_images` and :func:`decode_images`."""
    return decode_images(path, find_images(path), wanted)


def decode_images(
    path: Path, found: ImageSet, wanted: WantedFormat, *, num_classes: int | None = None
) -> dict[str, ImageTensors]:
    """Decode the images of both splits.

    Args:
        path: where they were found, for errors.
        found: the images.
        wanted: what they must be.
        num_classes: how many classes there must be; None takes any number.

    Returns:
        ``{"train": ..., "test": ...}``; classes are numbered in the order of ``found.class_names``.

    Raises:
        ValueError: if an image or the number of classes is not as required; the error states the settings that fit.
        OSError: if an image is corrupt.
    """
    try:
        if num_classes not in (None, len(found.class_names)):
            raise UnexpectedFormatError(
                f"{path} has num_classes={len(found.class_names)}, not the {num_classes} declared"
            )
        image_format = _complete(path, found.train[0], wanted)
        return {
            split: _decode_split(path, files, found.class_names, image_format)
            for split, files in (("train", found.train), ("test", found.test))
        }
    except UnexpectedFormatError as error:
        raise ValueError(f"{error}; {_fitting_settings(path, found, wanted)}") from error


def _complete(path: Path, first: ImageFile, wanted: WantedFormat) -> ImageFormat:
    """Take what is not stated from the first image."""
    channels, width, height = channels_and_size(first.read(), _where(path, first))
    if wanted.size is None and width != height:
        raise UnexpectedFormatError(f"{_where(path, first)} is not square: it has {width} x {height} pixels")
    return ImageFormat(wanted.channels or channels, wanted.size or width, resize=wanted.size is not None)


def _decode_split(
    path: Path, files: Sequence[ImageFile], class_names: tuple[str, ...], image_format: ImageFormat
) -> ImageTensors:
    number = {name: i for i, name in enumerate(class_names)}
    images = torch.empty(len(files), image_format.channels, image_format.size, image_format.size, dtype=torch.uint8)
    for i, file in enumerate(files):
        images[i] = decode(file.read(), image_format, _where(path, file))
    return ImageTensors(images, torch.tensor([number[file.class_name] for file in files]), class_names)


def _where(path: Path, file: ImageFile) -> str:
    return f"{path}: the image {file.name}"


def _fitting_settings(path: Path, found: ImageSet, wanted: WantedFormat) -> str:
    """State all settings that fit the images, and why, so that one error is enough."""
    channels, widths, heights = (
        set(values)
        for values in zip(
            *(channels_and_size(file.read(), _where(path, file)) for file in (*found.train, *found.test)), strict=True
        )
    )
    settings = [f"num_classes={len(found.class_names)}", f"in_channels={max(channels)}"]
    if wanted.size is not None or len(widths | heights) > 1:
        settings.append(f"image_size={wanted.size or min(widths | heights)}, to which they are resized")
    kind = {(1,): "grey", (3,): "colour"}.get(tuple(channels), "grey and colour")
    wide, high = (
        str(min(sides)) if len(sides) == 1 else f"{min(sides)} to {max(sides)}" for sides in (widths, heights)
    )
    return (
        f"set {', '.join(settings)}: it holds {describe_classes(found.class_names)} of {kind} images, "
        f"{wide} pixels wide and {high} high"
    )
