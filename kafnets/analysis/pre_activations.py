"""What activation layers receive for clean and for perturbed images: densities, and distances between the two."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.kernel_activation import KernelActivation
from kafnets.analysis.activation_layers import recorded_inputs
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask

Net: TypeAlias = nn.Module

BINS = 2048  # of a channel's histogram: E f''^2 is integrated over them
FLAT = 0.01  # slopes up to this one count as flat


@dataclass(frozen=True)
class Distances:
    """How far each image's pre-activations ``u`` are from those ``v`` of its perturbed form, each ``(N,)``.

    Attributes:
        l2: ``|v - u|_2``, in units of the pre-activation.
        relative: ``|v - u|_2 / |u|_2``; where u is zero, 0 if v is as well and infinite otherwise.
        angle: between ``u`` and ``v``, in degrees, from 0 to 180; 90 if one of them is zero, 0 if both are.

    Example:
        >>> found = Distances.between(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 3.0]]))
        >>> found.l2.item(), found.relative.item(), round(found.angle.item(), 3)
        (3.0, 1.0, 45.0)
    """

    l2: Tensor
    relative: Tensor
    angle: Tensor

    @classmethod
    def between(cls, u: Tensor, v: Tensor) -> "Distances":
        """The distances of ``(N, ...)`` and ``(N, ...)``."""
        u, v = (z.flatten(1).double() for z in (u, v))  # squares of large inputs are infinite in float32
        size, l2 = u.norm(dim=1), (v - u).norm(dim=1)
        first, second = (z / z.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny) for z in (u, v))
        # Kahan's formula: the arc cosine has no correct digits at small angles
        angle = 2 * torch.atan2((first - second).norm(dim=1), (first + second).norm(dim=1))
        relative = torch.where(l2 > 0, l2 / size, 0.0)
        return cls(*(found.float() for found in (l2, relative, angle.rad2deg())))

    @classmethod
    def joined(cls, parts: "list[Distances]") -> "Distances":
        """The distances of several batches together, on the CPU."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in cls.__annotations__))


@dataclass
class LayerInputs:
    """What one layer receives; everything on the CPU.

    Attributes:
        edges: ``(BINS + 1,)``, increasing, float64: from the smallest input of all sets of images to the largest.
        counts: by set of images, ``(C, BINS)``, float64: the histogram of each channel's inputs.
        outside: by set of images, the share of inputs outside the dictionary; empty if the layer has none.
        distances: by set of images except the first, from the first one's inputs to its own.
        flat: share of the first set's inputs at which no output has a slope above 0.01: a gradient does not pass there.
        dead: share of the channels all of whose inputs are flat.
        squared_slope: ``E f'(z)^2`` over the inputs of the first set; None if the layer is not pointwise.
    """

    edges: Tensor
    counts: dict[str, Tensor] = field(default_factory=dict)
    outside: dict[str, float] = field(default_factory=dict)
    distances: dict[str, Distances] = field(default_factory=dict)
    flat: float = 0.0
    dead: float = 0.0
    squared_slope: float | None = None


def layer_inputs(
    net: Net, layers: Mapping[str, Activation], sets: Mapping[str, Tensor], *, batch_size: int = 100
) -> dict[str, LayerInputs]:
    """Pass all sets of images through a network twice, and collect what its activation layers receive.

    The first pass finds the range of each layer's inputs, the second counts. Memory is that of one batch of each set,
    plus a histogram for each channel, whatever the number of images.

    Args:
        net: the network; used in evaluation mode, and left as it was.
        layers: its activation layers, as :func:`~kafnets.analysis.activation_layers.activation_layers` returns them.
        sets: images ``(N, ...)`` by name, such as ``clean`` and ``attacked``: the same images in the same order.
        batch_size: images of each set that are passed at once, >= 1.

    Returns:
        The layers that the network called, in the order of the calls.

    Raises:
        ValueError: if there are no images, the sets have different shapes, or inputs of a layer are not finite.

    Example:
        >>> from kafnets.activations import ReLU
        >>> net = nn.Sequential(ReLU(2), nn.Flatten())
        >>> x = torch.tensor([[-1.0, 2.0], [-3.0, 4.0]])
        >>> found = layer_inputs(net, {"0": net[0]}, {"clean": x, "noise": x + 1})["0"]
        >>> found.flat, found.dead, found.squared_slope, found.distances["noise"].relative.round(decimals=3)
        (0.5, 0.5, 0.5, tensor([0.6320, 0.2830]))
    """
    shapes = {tuple(x.shape) for x in sets.values()}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise ValueError(f"the sets of images must have one shape and not be empty, got {sorted(shapes)}")
    count = next(iter(shapes))[0]
    with preserve_state(net, eval_mode=True), torch.no_grad():
        ranges: dict[str, tuple[float, float]] = {}
        for rows in torch.arange(count).split(batch_size):
            for x in sets.values():
                for name, z in _inputs(net, layers, x[rows]).items():
                    ranges[name] = _widened(ranges.get(name), z, name)
        counters = {name: _Counter(layers[name], *ends, list(sets)) for name, ends in ranges.items()}
        for rows in torch.arange(count).split(batch_size):
            found = {kind: _inputs(net, layers, x[rows]) for kind, x in sets.items()}
            for name, counter in counters.items():
                counter.add({kind: inputs.pop(name) for kind, inputs in found.items()}, len(rows))
    return {name: counter.result() for name, counter in counters.items()}


def _inputs(net: Net, layers: Mapping[str, Activation], x: Tensor) -> dict[str, Tensor]:
    with recorded_inputs(dict(layers)) as found:
        ask(net, x)
    return found


def _widened(ends: tuple[float, float] | None, z: Tensor, name: str) -> tuple[float, float]:
    low, high = (float(end) for end in torch.aminmax(z))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"inputs of the activation {name} are not finite (from {low} to {high}); nothing to study")
    return (low, high) if ends is None else (min(low, ends[0]), max(high, ends[1]))


class _Counter:
    """Adds up the batches of one layer."""

    def __init__(self, layer: Activation, low: float, high: float, kinds: list[str]) -> None:
        pad = 1e-6 * max(high - low, abs(low), abs(high), 1e-6)  # so that the largest input is inside the last bin
        self.layer, self.low, self.high = layer, low - pad, high + pad
        self.counts = {kind: torch.zeros(layer.num_channels, BINS, dtype=torch.float64) for kind in kinds}
        self.distances: dict[str, list[Distances]] = {kind: [] for kind in kinds[1:]}
        self.dictionary = _dictionary(layer)
        self.outside = dict.fromkeys(kinds, 0)
        self.flat = torch.zeros(layer.num_channels, dtype=torch.float64)
        self.squared = 0.0

    def add(self, inputs: Mapping[str, Tensor], images: int) -> None:
        first, *others = inputs
        for kind, z in inputs.items():
            by_channel = z.transpose(0, 1).flatten(1)
            self.counts[kind] += self._histogram(by_channel)
            if self.dictionary is not None:
                low, high = (end.to(z)[:, None] for end in self.dictionary)
                self.outside[kind] += int(((by_channel < low) | (by_channel > high)).sum())
        for kind in others:
            pair = (self._by_image(inputs[kind_], images) for kind_ in (first, kind))
            self.distances[kind].append(Distances.between(*pair))
        slopes = _slopes(self.layer, inputs[first]).transpose(0, 1).flatten(1).double()
        self.flat += (slopes.abs() <= FLAT).sum(1).cpu()
        self.squared += float(slopes.square().sum())

    def result(self) -> LayerInputs:
        first = next(iter(self.counts.values()))
        per_channel = first.sum(1)
        total = float(per_channel.sum())
        return LayerInputs(
            edges=torch.linspace(self.low, self.high, BINS + 1, dtype=torch.float64),
            counts=self.counts,
            outside={} if self.dictionary is None else {kind: n / total for kind, n in self.outside.items()},
            distances={kind: Distances.joined(parts) for kind, parts in self.distances.items()},
            flat=float(self.flat.sum()) / total,
            dead=float((self.flat == per_channel).double().mean()),
            squared_slope=self.squared / total if self.layer.pointwise else None,
        )

    def _histogram(self, by_channel: Tensor) -> Tensor:
        places = ((by_channel.double() - self.low) * (BINS / (self.high - self.low))).long().clamp_(0, BINS - 1)
        places += BINS * torch.arange(len(by_channel), device=places.device)[:, None]
        return torch.bincount(places.flatten(), minlength=self.layer.num_channels * BINS).view(-1, BINS).cpu()

    @staticmethod
    def _by_image(z: Tensor, images: int) -> Tensor:
        """The inputs of a layer that was called several times, joined for each image."""
        return z.unflatten(0, (-1, images)).transpose(0, 1)


def _slopes(layer: Activation, z: Tensor) -> Tensor:
    """The slope of the sum of all outputs with respect to each input."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_(True)
        return torch.autograd.grad(layer.forward(z).sum(), z)[0]


def _dictionary(layer: Activation) -> tuple[Tensor, Tensor] | None:
    """The outermost points of a layer's dictionary, one pair per channel; None if it has none."""
    kernels = [module for module in layer.modules() if isinstance(module, KernelActivation)]
    if not kernels:
        return None
    points = [part.dictionary.detach() for part in kernels[0].parts()]
    rows = torch.cat([p.expand(kernels[0].groups, -1) for p in points], 1)
    rows = rows.repeat_interleave(layer.num_channels // len(rows), 0)
    return rows.amin(1), rows.amax(1)
