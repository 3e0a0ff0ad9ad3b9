"""The changes that the Square attack tries: stripes, tiles and squares at the boundary of the ball."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from kafnets.keyed_random import image_keys, uniform
from kafnets.threat import L1, L2, Linf, Norm, per_image


class Squares(ABC):
    """The start of a search and the changes that it tries; images are ``(N, C, H, W)``."""

    @abstractmethod
    def start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """An image at the boundary of the ball around each image."""

    @abstractmethod
    def change(self, x: Tensor, best: Tensor, eps: float, share: float, keys: Tensor) -> Tensor:
        """``best``, changed in one square that covers ``share`` of the image."""


def squares_of(norm: Norm) -> Squares:
    """The changes for a norm; ``ValueError`` where the paper has none."""
    for ball, squares in ((Linf, LinfSquares()), (L2, Pyramids(power=2)), (L1, Pyramids(power=1))):
        if isinstance(norm, ball):
            return squares
    raise ValueError(f"the Square attack is defined for Linf, L2 and L1, got {norm!r}")


class LinfSquares(Squares):
    """Squares of one colour, every channel at +eps or -eps (Andriushchenko et al. 2020, section 4.2)."""

    def start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """Vertical stripes, one pixel wide, of +eps and -eps in each channel."""
        _, channels, _, width = x.shape
        return x + eps * _signs(image_keys(keys, -1), (channels, 1, width)).to(x.dtype)

    def change(self, x: Tensor, best: Tensor, eps: float, share: float, keys: Tensor) -> Tensor:
        """A square somewhere, of +eps or -eps from the original in each channel."""
        _, channels, height, width = x.shape
        side = max(round(math.sqrt(share * height * width)), 1)
        place = uniform(keys, (2,))
        inside = _span(place[:, 0], min(side, height), height).unsqueeze(2)
        inside = inside & _span(place[:, 1], min(side, width), width).unsqueeze(1)
        colour = eps * _signs(image_keys(keys, 0), (channels, 1, 1)).to(x.dtype)
        return torch.where(inside.unsqueeze(1), x + colour, best)


class Pyramids(Squares):
    """Two pyramids side by side, one positive and one negative, whose norm is taken from another window.

    With ``power=2`` in L2 (Andriushchenko et al. 2020, section 4.3); with ``power=1`` the same with L1 norms
    (after Croce and Hein 2021, arXiv 2103.01208, section 4).
    """

    def __init__(self, *, power: int) -> None:
        self.power = power

    def start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """Pyramids on a grid of five by five tiles, scaled to norm eps."""
        channels, height, width = x.shape[1:]
        side = max(min(height, width) // 5, 1)
        tiles = (height // side, width // side)
        pyramids = _pyramids(side, uniform(image_keys(keys, -1), tiles), x.dtype, self.power)
        signs = _signs(image_keys(keys, -2), (channels, *tiles)).to(x.dtype)
        # (N, C, rows, columns, 1, 1) times (N, 1, rows, columns, side, side), tiles side by side
        grid = (signs[..., None, None] * pyramids.unsqueeze(1)).transpose(3, 4)
        grid = grid.reshape(len(x), channels, tiles[0] * side, tiles[1] * side)
        above, left = ((height - grid.shape[2]) // 2, (width - grid.shape[3]) // 2)
        around = (left, width - grid.shape[3] - left, above, height - grid.shape[2] - above)
        return self._scaled(x, torch.nn.functional.pad(grid, around), eps)

    def change(self, x: Tensor, best: Tensor, eps: float, share: float, keys: Tensor) -> Tensor:
        """Add a pyramid to one window and the norm of another window, which becomes zero."""
        channels, height, width = x.shape[1:]
        side = _odd_side(share, height, width)
        place = uniform(keys, (4,))
        rows, columns = (_inside(place[:, at], side, size) for at, size in ((0, height), (1, width)))
        other_rows, other_columns = (_inside(place[:, at], side, size) for at, size in ((2, height), (3, width)))
        delta = (best - x).permute(0, 2, 3, 1).contiguous()  # (N, H, W, C), to index windows by rows and columns
        number = torch.arange(len(x), device=x.device).reshape(-1, 1, 1)
        here = (number, rows.unsqueeze(2), columns.unsqueeze(1))
        there = (number, other_rows.unsqueeze(2), other_columns.unsqueeze(1))
        old = delta[here]
        unused = (eps**self.power - self._amount(delta, (1, 2, 3))).clamp_min(0)
        rest = delta.clone()
        rest[here], rest[there] = 0, 0
        held = self._amount(delta - rest, (1, 2))  # norm of both windows, per channel
        pyramid = _pyramids(side, uniform(image_keys(keys, 0), ()), x.dtype, self.power).unsqueeze(-1)
        signs = _signs(image_keys(keys, 1), (1, 1, channels)).to(x.dtype)
        rest[here] = self._unit(pyramid * signs + self._unit(old)) * self._length(unused / channels + held)
        return self._scaled(x, rest.permute(0, 3, 1, 2), eps)

    def _amount(self, delta: Tensor, dims: tuple[int, ...]) -> Tensor:
        """The norm to its power, which adds up over windows."""
        return delta.abs().pow(self.power).sum(dims, keepdim=True)

    def _length(self, amount: Tensor) -> Tensor:
        return amount.pow(1 / self.power)

    def _unit(self, windows: Tensor) -> Tensor:
        """Windows ``(N, side, side, C)`` scaled to norm 1 per channel; windows of zeros stay."""
        length = self._length(self._amount(windows, (1, 2)))
        return windows / torch.where(length > 0, length, torch.ones_like(length))

    def _scaled(self, x: Tensor, delta: Tensor, eps: float) -> Tensor:
        length = per_image(self._length(self._amount(delta.flatten(1), (1,))), x)
        return x + delta * (eps / torch.where(length > 0, length, torch.ones_like(length)))


def _signs(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.where(uniform(keys, shape) < 0.5, -1.0, 1.0)


def _first(place: Tensor, side: int, size: int) -> Tensor:
    """The first pixel of an interval of ``side`` out of ``size``, for numbers in [0, 1): int64 ``(N,)``."""
    return (place.double() * (size - side + 1)).long()


def _span(place: Tensor, side: int, size: int) -> Tensor:
    """Which of ``size`` pixels lie in such an interval: bool ``(N, size)``."""
    first, pixels = _first(place, side, size).unsqueeze(1), torch.arange(size, device=place.device)
    return (pixels >= first) & (pixels < first + side)


def _inside(place: Tensor, side: int, size: int) -> Tensor:
    """The numbers of the pixels of such an interval: int64 ``(N, side)``."""
    return _first(place, side, size).unsqueeze(1) + torch.arange(side, device=place.device)


def _odd_side(share: float, height: int, width: int) -> int:
    """The side of a square that covers ``share`` of the image, odd, at least 3 where the image is large enough."""
    side = max(round(math.sqrt(share * height * width)), 3)
    room = min(height, width)
    return min(side | 1, room if room % 2 else room - 1) if room > 1 else 1


def _pyramids(side: int, orientation: Tensor, dtype: torch.dtype, power: int) -> Tensor:
    """Pyramids of norm 1, transposed where ``orientation`` > 0.5; of the shape of that, then (side, side)."""
    upright = torch.cat([_half_pyramid(side // 2, side, power), -_half_pyramid(side - side // 2, side, power)])
    upright = (upright / upright.norm(p=power)).to(orientation.device, dtype)
    return torch.where(orientation[..., None, None] > 0.5, upright.T, upright)


def _half_pyramid(height: int, width: int, power: int) -> Tensor:
    """Nested rectangles around the centre, of which number m adds 1 / (m + 1)^2, scaled to norm 1."""
    middle_row, middle_column = height // 2, width // 2
    rows = (torch.arange(height, dtype=torch.float64) - middle_row).abs()
    columns = (torch.arange(width, dtype=torch.float64) - middle_column).abs()
    ring = torch.maximum(rows.unsqueeze(1), columns.unsqueeze(0))
    heights = (1 / torch.arange(1, max(middle_row, middle_column) + 2, dtype=torch.float64).square()).flip(0).cumsum(0)
    pyramid = heights.flip(0)[ring.long()]
    return pyramid / pyramid.norm(p=power) if height else pyramid
