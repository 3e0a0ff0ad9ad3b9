"""Decode one JPEG, PNG, WebP, BMP or PPM file into uint8 pixels, without losing or guessing anything."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

# Others are never tried: for PostScript, for example, Pillow starts another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
# Channels -> PIL's mode, and the modes that convert to it without loss (colour to grey, say, would lose something).
_PIL_MODES = {1: ("L", ("1", "L")), 3: ("RGB", ("1", "L", "P", "RGB"))}
# The alpha channel dropped, and a palette resolved; other modes have one colour that stands for transparent.
_OPAQUE_MODES = {"LA": "L", "PA": "RGB", "P": "RGB", "RGBA": "RGB"}

_ORIENTATION = 0x0112  # the tag of EXIF's orientation, and what makes each of its values upright
_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_PNG_DEPTH = 24  # where a PNG states its bits per channel


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


class WantedFormat(NamedTuple):
    """What a user states of the format of decoded images.

    Args:
        channels: 1 (grey) or 3 (RGB); None for those of the first training image.
        size: height and width in pixels, to which images of another size are resampled; None for those of the first
            training image, which all others must then have.
    """

    channels: int | None = None
    size: int | None = None


class UnexpectedFormatError(ValueError):
    """A readable image that does not have the required format."""


def decode(data: bytes, image_format: ImageFormat, where: str) -> Tensor:
    """Return the pixels of one image, ``(C, H, W)`` uint8.

    16-bit grey is scaled to 8 bits (65535 becomes 255, rounded to nearest), an opaque alpha channel is dropped, and
    the orientation stored in EXIF is applied.

    Args:
        data: the content of the file.
        image_format: what the image must be.
        where: names the image in errors.

    Raises:
        OSError: if the file is damaged or in another file format.
        UnexpectedFormatError: if the image has another number of channels or another size.
        ValueError: if it is transparent, animated, CMYK, 16-bit colour or in another mode that would lose something.
    """
    mode, accepted = _PIL_MODES[image_format.channels]
    size = (image_format.size, image_format.size)
    image = _upright(data, where)
    if image.mode not in _PIL_MODES[3][1]:
        raise ValueError(f"{where} is {image.mode}; convert it to RGB or grey")
    if image.mode not in accepted:
        raise UnexpectedFormatError(
            f"{where} is {image.mode}, and in_channels={image_format.channels} takes {' or '.join(accepted)}"
        )
    if image.size != size and not image_format.resize:
        raise UnexpectedFormatError(f"{where} has {image.width} x {image.height} pixels, not {size[0]} x {size[1]}")
    pixels = image.convert(mode)
    if image.size != size:
        pixels = pixels.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).reshape(*size, image_format.channels).permute(2, 0, 1).contiguous()


def decode_rgb(data: bytes, where: str) -> Image.Image:
    """Return one image of any size as RGB of 8 bits.

    Grey, palette and CMYK images are converted (CMYK without a colour profile); the rest is as in :func:`decode`.

    Raises:
        OSError: if the file is damaged or in another file format.
        ValueError: if it is transparent, animated, 16-bit colour or in another mode that would lose something.
    """
    image = _upright(data, where)
    if image.mode not in (*_PIL_MODES[3][1], "CMYK"):
        raise ValueError(f"{where} is {image.mode}; convert it to RGB or grey")
    return image.convert("RGB")


def _upright(data: bytes, where: str) -> Image.Image:
    """Return the one picture of a file as its EXIF orientation says, with 8 bits per channel and no alpha channel."""
    with _damage_named(where):
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        # not ImageOps.exif_transpose, which also writes the other tags anew and fails where one of them is damaged
        turn = _TURNS.get(opened.getexif().get(_ORIENTATION))
        opened.load()
    # The further pictures of a JPEG, as cameras write them, are previews and the like.
    if opened.format != "MPO" and (frames := getattr(opened, "n_frames", 1)) > 1:
        raise ValueError(f"{where} has {frames} frames; store the one you mean as an image of its own")
    if opened.format == "PNG" and data[_PNG_DEPTH] == 16 and opened.mode != "I;16":
        raise ValueError(f"{where} is {opened.mode} of 16 bits per channel; convert it to 8 bits")
    image = _without_alpha(opened, where)
    if image.mode == "I;16":
        image = Image.fromarray(((np.array(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    return image if turn is None else image.transpose(turn)


def channels_and_size(data: bytes, where: str) -> tuple[int, int, int]:
    """Return channels (1 or 3), width and height as the header of an image states them.

    Raises:
        OSError: if the header is damaged.
    """
    with _damage_named(where):
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    return 1 if image.mode in ("1", "L", "LA", "I;16") else 3, *image.size


def _without_alpha(image: Image.Image, where: str) -> Image.Image:
    """Return ``image`` without its alpha channel, which must be opaque everywhere."""
    if not image.has_transparency_data:
        return image
    if image.mode == "I;16":
        transparent = bool((np.array(image) == image.info["transparency"]).any())
    else:
        transparent = image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    if transparent:
        raise ValueError(f"{where} has transparent pixels; paste it on a background of your choice")
    image.info.pop("transparency", None)
    return image.convert(_OPAQUE_MODES.get(image.mode, image.mode))


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise OSError(f"{where} is corrupt or none of {', '.join(_FORMATS)}; replace or delete it") from error
    except Exception as error:  # Pillow raises many types of errors for damaged files
        raise OSError(f"{where} is corrupt ({error}); replace or delete it") from error
