"""Folder trees of small photographs, with every kind of file that ImageNet holds."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n02105855")
ORIENTATION = 0x0112  # the tag of EXIF's orientation


def photograph(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    """A smooth colour image, which JPEG changes little."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def write_photographs(root: Path, *, train: int = 4, val: int = 2, classes: tuple[str, ...] = CLASSES) -> Path:
    """``{train,val}/<class>/*.JPEG`` of different sizes."""
    for split, number in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                image = photograph(100 * label + i + 50 * (split == "val"), 40 + 3 * i, 34 + 5 * label)
                image.save(folder / f"{name}_{i}.JPEG", quality=95)
    return root


def write_odd_files(folder: Path) -> dict[str, Image.Image]:
    """One file of every odd kind that can be converted, and how each must look as RGB."""
    colour = photograph(7)
    grey = colour.convert("L")
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # to be turned by 90 degrees clockwise
    wanted = {"cmyk.JPEG": colour, "grey.JPEG": grey, "deep.JPEG": grey, "turned.JPEG": colour, "png.JPEG": colour}
    colour.convert("CMYK").save(folder / "cmyk.JPEG", format="JPEG", quality=95)
    grey.save(folder / "grey.JPEG", quality=95)
    deep.save(folder / "deep.JPEG", format="PNG")
    colour.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.JPEG", quality=95, exif=turned)
    colour.save(folder / "png.JPEG", format="PNG")
    return {name: image.convert("RGB") for name, image in wanted.items()}
