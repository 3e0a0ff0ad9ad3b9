"""The part of a photograph that a network is shown: a random one in training, the middle one in evaluations."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from PIL import Image
from torch import Generator

from datamodules.seeding import keyed_generator

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

_TRIES = 10
_RATIO = (3 / 4, 4 / 3)


def random_box(width: int, height: int, min_area: float, generator: Generator) -> Box:
    """Return a random rectangle of an image.

    Its area is uniform in [``min_area``, 1] of that of the image, and the logarithm of its width over its height in
    [log 3/4, log 4/3]; if ten draws do not fit into the image, it is the largest centred rectangle with a ratio in
    this range (Szegedy et al. 2015, "Going deeper with convolutions", section 6; torchvision's ``RandomResizedCrop``).
    """
    low, high = (math.log(ratio) for ratio in _RATIO)
    for area, ratio, x, y in torch.rand(_TRIES, 4, generator=generator, dtype=torch.float64).tolist():
        pixels = width * height * (min_area + (1 - min_area) * area)
        aspect = math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass(frozen=True)
class RandomCropFlip:
    """A random part of an image, resized to ``size`` x ``size`` pixels, and mirrored with probability 1/2.

    The choice depends on (``seed``, epoch, position of the image) alone.
    """

    size: int
    min_area: float
    seed: int

    def __call__(self, image: Image.Image, position: int, epoch: int) -> Image.Image:
        """Return the part for an epoch."""
        generator = keyed_generator("crop and flip", self.seed, epoch, position)
        box = random_box(*image.size, self.min_area, generator)
        part = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        flipped = bool(torch.rand((), generator=generator) < 0.5)
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else part


@dataclass(frozen=True)
class CentreCrop:
    """The shorter side resized to ``shorter`` pixels, then the middle ``size`` x ``size`` pixels."""

    size: int
    shorter: int

    def __call__(self, image: Image.Image, position: int, epoch: int) -> Image.Image:
        """Return the middle."""
        sides = [self.shorter * side // min(image.size) for side in image.size]
        resized = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return resized.crop((left, top, left + self.size, top + self.size))
