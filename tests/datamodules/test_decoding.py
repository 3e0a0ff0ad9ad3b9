import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import read, write_folder

from datamodules.decoding import ImageFormat, decode

GREY16 = np.array([[0, 128, 129, 255], [256, 257, 32767, 32768], [32896, 65278, 65407, 65408], [65535, 1, 2, 3]])


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data, *, channels=3, size=4, resize=False):
    return decode(data, ImageFormat(channels, size, resize), "x")


def noise(mode="RGB", size=(4, 4)):
    bands = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], *bands), np.uint8), mode)


def pixels(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {}), ("JPEG", {})]
)
def test_every_kind_is_decoded(kind, options):
    data = encoded(noise(), kind, **options)
    assert torch.equal(decoded(data), pixels(Image.open(io.BytesIO(data)) if kind == "JPEG" else noise()))


def test_a_folder_may_mix_all_suffixes(tmp_path):
    folder = write_folder(tmp_path / "images")
    for suffix, file in zip((".webp", ".bmp", ".ppm", ".JPG"), sorted(folder.glob("train/cat/*")), strict=True):
        Image.open(file).save(file.with_suffix(suffix))
        file.unlink()
    assert len(read(folder)["train"]) == 12


def test_16_bit_grey_is_scaled_and_rounded():
    data = encoded(Image.fromarray(GREY16.astype(np.uint16)))
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    expected = torch.from_numpy(np.round(GREY16 * (255 / 65535)))
    assert expected.max() == 255
    assert torch.equal(decoded(data, channels=1)[0], expected.byte())
    assert torch.equal(decoded(data), expected.byte().expand(3, -1, -1))


def test_16_bit_colour_is_refused():
    data = bytearray(encoded(noise()))
    # Pillow cannot write 16-bit colour: the header is rewritten, with its checksum, around any data.
    rows = b"".join(b"\0" + bytes(4 * 3 * 2) for _ in range(4))
    header = data[12:29]
    header[4 + 8] = 16

    def chunk(content):
        return (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")

    data = data[:8] + chunk(bytes(header)) + chunk(b"IDAT" + zlib.compress(rows)) + chunk(b"IEND")
    with pytest.raises(ValueError, match="x is RGB of 16 bits per channel; convert it to 8 bits"):
        decoded(bytes(data))


def with_alpha(mode, alpha):
    image = noise(mode)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_opaque_alpha_channel_is_dropped(kind):
    image = with_alpha("RGBA", 255)
    assert torch.equal(decoded(encoded(image, kind, lossless=True)), pixels(image))


def test_opaque_grey_stays_grey():
    image = with_alpha("LA", 255)
    assert torch.equal(decoded(encoded(image), channels=1)[0], pixels(image)[0])


def palette():
    return noise().quantize(4)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (with_alpha("RGBA", 254), {}),
        (with_alpha("LA", 0), {}),
        (palette(), {"transparency": 0}),
        (palette(), {"transparency": bytes([255, 255, 254, 255])}),
        (Image.new("L", (4, 4), 7), {"transparency": 7}),
        (Image.new("1", (4, 4)), {"transparency": 0}),
        (Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}),
        (Image.fromarray(GREY16.astype(np.uint16)), {"transparency": 257}),
    ],
    ids=lambda value: getattr(value, "mode", str(value)),
)
def test_transparent_pixels_are_refused(image, options):
    with pytest.raises(ValueError, match="x has transparent pixels; paste it on a background of your choice"):
        decoded(encoded(image, **options))


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (palette(), {"transparency": bytes([255] * 4)}),
        (Image.new("L", (4, 4), 7), {"transparency": 8}),
        (Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 4)}),
        (Image.fromarray(GREY16.astype(np.uint16)), {"transparency": 258}),
    ],
    ids=lambda value: getattr(value, "mode", str(value)),
)
def test_a_transparent_colour_that_does_not_occur_is_no_obstacle(image, options):
    assert torch.equal(decoded(encoded(image, **options)), decoded(encoded(image)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    image = noise(size=(4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Orientation 6: the first row of the file is the right column of the picture, and so on.
    expected = {
        1: lambda x: x,
        2: lambda x: x.flip(-1),
        3: lambda x: x.rot90(2, (-2, -1)),
        4: lambda x: x.flip(-2),
        5: lambda x: x.mT,
        6: lambda x: x.rot90(-1, (-2, -1)),
        7: lambda x: x.rot90(2, (-2, -1)).mT,
        8: lambda x: x.rot90(1, (-2, -1)),
    }[orientation](pixels(image))
    assert torch.equal(decoded(encoded(image, kind, exif=exif, lossless=True)), expected)


def test_a_damaged_tag_beside_the_orientation_does_not_matter():
    width = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc")  # a text instead of a number
    tags = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + width + bytes(4)
    image = noise()
    found = decoded(encoded(image, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0" + tags, lossless=True))
    assert torch.equal(found, pixels(image).rot90(-1, (-2, -1)))


def test_a_turned_photograph_is_resized_after_turning():
    image = noise(size=(8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_270)
    expected = pixels(turned.resize((4, 4), Image.Resampling.BILINEAR))
    assert torch.equal(decoded(encoded(image, exif=exif), resize=True), expected)


def test_cmyk_is_refused():
    with pytest.raises(ValueError, match="x is CMYK; convert it to RGB or grey"):
        decoded(encoded(noise("CMYK"), "JPEG"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind):
    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (0, 200)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="x has 2 frames; store the one you mean as an image of its own"):
        decoded(data)


def test_a_photograph_with_a_preview_is_its_first_picture():
    photograph = Image.new("RGB", (4, 4), (0, 200, 0))
    data = encoded(photograph, "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4), (0, 0, 200))])
    assert decoded(data)[1].min() > 150


@pytest.mark.parametrize("kind", ["GIF", "EPS", "TIFF", "ICO"])
def test_no_other_format_hides_behind_a_suffix(kind):
    with pytest.raises(OSError, match="x is corrupt or none of JPEG, PNG, WEBP, BMP, PPM; replace or delete it"):
        decoded(encoded(Image.new("RGB", (16, 16)), kind))
