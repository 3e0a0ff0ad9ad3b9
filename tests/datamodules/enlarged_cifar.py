"""CIFAR-10 (JPEG copy) as a small ImageNet: 20 classes, each the brighter or the darker half of one of the ten."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_enlarged(tar: Path, root: Path, *, train: int, val: int, size: int) -> Path:
    """``{train,val}/<class>_{dark,bright}/*.JPEG`` of ``size`` pixels, with so many images in each class."""
    wanted = {"train": 2 * train, "test": 2 * val}
    found: dict[tuple[str, str], list[Image.Image]] = {}
    with tarfile.open(tar) as stream:
        for member in stream:
            parts = member.name.split("/")
            if not member.isfile() or len(parts) != 4:
                continue
            images = found.setdefault((parts[1], parts[2]), [])
            if len(images) < wanted[parts[1]]:
                file = stream.extractfile(member)
                assert file is not None
                images.append(Image.open(io.BytesIO(file.read())).convert("RGB"))
            if len(found) == 20 and all(len(images) == wanted[split] for (split, _), images in found.items()):
                break
    for (split, name), images in found.items():
        images.sort(key=lambda image: float(np.array(image).mean()))
        for i, image in enumerate(images):
            half = "dark" if i < len(images) // 2 else "bright"
            folder = root / {"train": "train", "test": "val"}[split] / f"{name}_{half}"
            folder.mkdir(parents=True, exist_ok=True)
            image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i}.JPEG", quality=90)
    return root
