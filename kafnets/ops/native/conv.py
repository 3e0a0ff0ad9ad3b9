"""Chains of convolutions by native/conv.cpp."""

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kafnets.ops.native.build import BuildError, load

MATRICES = 36  # of a transformed filter
CHUNK_PIXELS = 1024  # of the images that a step makes at a time: they stay in the cache
GROUP_NUMBERS = 16 << 20  # of what lies between steps of different sizes
DEPTH = 64  # channels that Winograd's products sum in one go: over 512 they err by three times as much
NONE = -1  # for the number of a value


class Method(IntEnum):
    """How a step convolves, and with which weights."""

    ADD = 0  # not at all: the source is added as it is
    SAME = 1  # Winograd's: 3x3, stride 1, a zero all round; `frequencies`
    SHRINK = 2  # Winograd's: 3x3, stride 2, at most one zero above and left; `frequencies`
    GROW = 3  # from the gradient of its outputs to that of its inputs; `frequencies`, turned
    DIRECT = 4  # `taps`
    BACK = 5  # from the gradient of its outputs to that of its inputs; `taps`, turned


WINOGRAD = (Method.SAME, Method.SHRINK, Method.GROW)


class _Value(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("gate", c_void_p),
        ("offset", c_int64),
        *((name, c_int32) for name in ("whole", "planar", "channels", "height", "width")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("source", "gate", "skip", "skip_gate", "target", "relu")),
        *((name, c_int32) for name in ("method", "room", "parts", "size", "stride", "before")),
        *((name, c_void_p) for name in ("weights", "shift", "skip_scale", "mean")),
        ("joined", c_int32),
    )


class _Chain(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("images", "scratch")),
        *((name, c_void_p) for name in ("values", "steps")),
        *((name, c_int32) for name in ("length", "group", "threads")),
    )


@dataclass(frozen=True)
class Shape:
    """Of the images that a value is made of.

    Attributes:
        channels, height, width: their size.
        held: whether a tensor holds them; otherwise they are kept in memory that is used again.
        gates: whether what ReLU let through is held.
    """

    channels: int
    height: int
    width: int
    held: bool = True
    gates: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def room(self) -> int:
        """How many images a step makes at a time."""
        return max(CHUNK_PIXELS // (self.height * self.width), 1)

    @property
    def numbers(self) -> int:
        """Of an image."""
        return self.channels * self.height * self.width


@dataclass
class Step:
    """``target = relu(conv(source - mean) + shift + skip_scale skip)``, by numbers of values.

    What has a gate counts where the ReLU of that value let it through. The filter has ``size`` x ``size`` taps; above
    and left of the image lie ``before`` zeros. Of means only ``DIRECT`` knows. What is ``joined`` is computed together
    with the step before.
    """

    target: int = NONE
    source: int = NONE
    gate: int = NONE
    skip: int = NONE
    skip_gate: int = NONE
    method: Method = Method.ADD
    size: int = 0
    stride: int = 1
    before: int = 0
    weights: Tensor | None = None
    shift: Tensor | None = None
    skip_scale: Tensor | None = None
    mean: Tensor | None = None
    relu: bool = False
    joined: bool = False

    @property
    def values(self) -> set[int]:
        """The numbers of those it reads and writes."""
        return {self.source, self.skip, self.target} - {NONE}

    @property
    def parts(self) -> int:
        """Into how many sums over channels the frequencies are cut."""
        return self.weights.shape[1] if self.method in WINOGRAD and self.weights is not None else 1


@cache
def library(march: str = "native") -> ctypes.CDLL:
    """The compiled library, once it has convolved as PyTorch does.

    Raises:
        BuildError: if there is none, or its values are wrong.
    """
    found = load("conv", march)
    found.conv_same.argtypes = (c_void_p, c_void_p, c_int64)
    found.conv_weights.argtypes = (c_void_p, c_void_p, c_int64, c_int64, c_int32, c_int32, c_void_p)
    x, filters = torch.linspace(-1, 1, 16 * 30).cos().reshape(1, 16, 5, 6), torch.linspace(0, 9, 2304).sin() / 40
    filters, y = filters.reshape(16, 16, 3, 3), channels_last(torch.zeros(1, 16, 3, 3))
    same, shrink = (frequencies(filters, stride=stride, turned=False, lib=found) for stride in (1, 2))
    steps = [
        Step(target=1, source=0, method=Method.SAME, weights=same),
        Step(target=2, source=1, method=Method.SHRINK, weights=shrink, before=1),
    ]
    plan = Plan([Shape(16, 5, 6), Shape(16, 5, 6, held=False), Shape(16, 3, 3)], steps, lib=found)
    expected = F.conv2d(F.conv2d(x, filters, padding=1), filters, stride=2, padding=1)
    if not plan.run([channels_last(x), y]) or not torch.allclose(y, expected, atol=1e-4):
        raise BuildError("its convolutions are wrong: is the compiler sound? CXX names another")
    return found


def channels_last(x: Tensor) -> Tensor:
    """``x`` in the memory layout of a value."""
    return x.contiguous(memory_format=torch.channels_last)


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors hold the same bits in order; on large ones a quarter of ``torch.equal``'s time."""
    return a.nbytes == b.nbytes and bool(library().conv_same(a.data_ptr(), b.data_ptr(), a.nbytes))


def frequencies(
    filters: Tensor, scale: Tensor | None = None, *, stride: int = 1, turned: bool, lib: ctypes.CDLL | None = None
) -> Tensor:
    """Filters ``(out, in, 3, 3)``, times ``scale`` ``(out,)``, transformed: ``(36, parts, in / parts, out)``.

    ``turned``: those that take the gradient of the outputs to that of the inputs, ``(36, parts, out / parts, in)``. The
    last dimension is filled up to whole vectors, of which matrices hold two at a time.
    """
    lib = lib or library()
    short = -filters.shape[1 if turned else 0] % lib.conv_lanes()
    filters = F.pad(filters, (0, 0, 0, 0, 0, short) if turned else (0, 0, 0, 0, 0, 0, 0, short)).contiguous()
    scale = None if scale is None else F.pad(scale, (0, 0 if turned else short)).contiguous()
    outputs, inputs = filters.shape[:2]
    weights = torch.empty((MATRICES, outputs, inputs) if turned else (MATRICES, inputs, outputs))
    lib.conv_weights(filters.data_ptr(), _at(scale), outputs, inputs, stride, int(turned), weights.data_ptr())
    parts, rows = 1, weights.shape[1]
    while rows // parts > DEPTH and rows % (2 * parts) == 0:
        parts *= 2
    return _columns(weights.unflatten(1, (parts, rows // parts)), lib)


def taps(filters: Tensor, *, turned: bool, lib: ctypes.CDLL | None = None) -> Tensor:
    """Filters ``(out, in, size, size)`` as ``(size, size in, out)``: rows of taps.

    ``turned``: as ``(size, size, out, in)``. Otherwise as of :func:`frequencies`.
    """
    lib = lib or library()
    weights = filters.permute(2, 3, 0, 1) if turned else filters.permute(2, 3, 1, 0).flatten(1, 2)
    return _columns(F.pad(weights, (0, -weights.shape[-1] % lib.conv_lanes())), lib)


def _columns(weights: Tensor, lib: ctypes.CDLL) -> Tensor:
    """Matrices ``(..., in, out)`` in the order in which products read them: two vectors of columns at a time."""
    parts = [part.flatten(-2) for part in weights.split(2 * lib.conv_lanes(), dim=-1)]
    return torch.cat(parts, dim=-1).reshape(weights.shape)


class Plan:
    """Steps that are taken again and again, on other images each time.

    Args:
        shapes: of the values, by number.
        steps: in order.
    """

    def __init__(self, shapes: Sequence[Shape], steps: Sequence[Step], *, lib: ctypes.CDLL | None = None) -> None:
        steps = _joined(shapes, steps)
        self.lib, self.kept = lib or library(), steps  # their tensors have to outlive the plan
        self.held = [number for number, shape in enumerate(shapes) if shape.held]
        lanes = self.lib.conv_lanes()
        self.part = {number for number, shape in enumerate(shapes) if shape.channels % lanes}
        self.word = torch.int16 if lanes > 8 else torch.int8
        self.gates = {number: shape.numbers // lanes for number, shape in enumerate(shapes) if shape.gates}
        self.memory = _Memory.of(shapes, steps)
        placed = zip(self.memory.places, shapes, strict=True)
        self.values = (_Value * len(shapes))(*(_Value(None, None, *place, 0, *shape.size) for place, shape in placed))
        names = [name for name, *_ in _Step._fields_ if name != "room"]
        said = [{name: _at(getattr(step, name)) for name in names} for step in steps]
        rooms = [shapes[step.target].room for step in steps]
        self.steps = (_Step * len(steps))(*(_Step(room=room, **of) for room, of in zip(rooms, said, strict=True)))

    def empty_gates(self, images: int) -> Tensor:
        """Room for what ReLU lets through: a bit a number, a word a vector."""
        return torch.empty(images * sum(self.gates.values()), dtype=self.word)

    def run(self, tensors: Sequence[Tensor], gates: Tensor | None = None) -> bool:
        """Take the steps. Returns False where a sum is not finite or memory is short: what was computed is worthless.

        Args:
            tensors: float32 ``(N, C, H, W)``, for the values that are held, in order: channels_last; or contiguous, if
                no convolution of Winograd reads them and their channels do not fill vectors.
            gates: of :meth:`empty_gates`, for the values whose gates are held.
        """
        values = type(self.values).from_buffer_copy(self.values)  # other threads may take the steps meanwhile
        images = len(tensors[0])
        if gates is not None:
            at, size = gates.data_ptr(), images * gates.itemsize
            for number, words in self.gates.items():
                values[number].gate = at
                at += size * words
        for number, tensor in zip(self.held, tensors, strict=True):
            values[number].data = tensor.data_ptr()
            values[number].planar = number in self.part and tensor.is_contiguous()
        chain = _Chain(images, self.memory.size, ctypes.addressof(values), ctypes.addressof(self.steps))
        chain.length, chain.group, chain.threads = len(self.steps), self.memory.group, torch.get_num_threads()
        return bool(self.lib.conv_run(ctypes.byref(chain)))


def _joined(shapes: Sequence[Shape], steps: Sequence[Step]) -> list[Step]:
    """The steps, joined where two in a row share a transform: that of their source, or that of the sums they add up.

    So do the two paths of a block that halves the image, there and back.
    """
    found: list[Step] = []
    for step in steps:
        if found and not found[-1].joined and _alike(shapes, found[-1], step):
            before, plain = found[-1], not step.relu and step.shift is step.skip_scale is None
            if step.target != before.target:
                step = replace(step, joined=(step.source, step.gate) == (before.source, before.gate))
            elif plain and (step.skip, step.skip_gate) == (step.target, NONE) and not before.relu:
                step = replace(step, joined=True, skip=NONE)
        found.append(step)
    return found


def _alike(shapes: Sequence[Shape], one: Step, other: Step) -> bool:
    """Whether two steps transform images in the same way."""
    if one.method != other.method or one.method not in WINOGRAD or one.weights is None or other.weights is None:
        return False
    same_filters = (one.before, one.weights.shape) == (other.before, other.weights.shape)
    pairs = ((one.source, other.source), (one.target, other.target))
    return same_filters and all(shapes[a].size == shapes[b].size for a, b in pairs)


@dataclass
class _Memory:
    """Where the values that no tensor holds are kept.

    Attributes:
        group: how many images go through all steps before others do.
        places: of each value: the first of its numbers, and whether it is kept for the whole group.
        size: of it all, in numbers.
    """

    group: int
    places: list[tuple[int, bool]]
    size: int

    @classmethod
    def of(cls, shapes: Sequence[Shape], steps: Sequence[Step]) -> "_Memory":
        """A value that is made at one room and read at another is kept for the whole group, in a place of its own.

        The others take places that are used again once nobody reads what was there. The second of two joined steps may
        write where the skip of the first lies: each pixel is read before.
        """
        rooms = [shapes[step.target].room for step in steps]
        stretches = list(accumulate((now != before for before, now in pairwise(rooms)), initial=0))
        first, last = dict[int, int](), dict[int, int]()
        for at, step in enumerate(steps):
            for value in step.values:
                first.setdefault(value, at)
                last[value] = at
        loose = [value for value in first if not shapes[value].held]
        whole = {value for value in loose if stretches[first[value]] != stretches[last[value]]}
        group = min(max(rooms), GROUP_NUMBERS // max(sum(shapes[value].numbers for value in whole), 1))
        group, sizes, free = max(group, 1), list[int](), list[int]()
        slots = dict[int, int]()
        for at, step in enumerate(steps):
            value = step.target
            if value in loose and value not in slots:
                if value in whole or not free:
                    free.append(len(sizes))
                    sizes.append(0)
                slots[value] = free.pop()
                room = group if value in whole else min(group, rooms[at])
                sizes[slots[value]] = max(sizes[slots[value]], shapes[value].numbers * room)
            free += [slots[v] for v in step.values if v in slots and v not in whole and last[v] == at]
        offsets = list(accumulate(sizes, initial=0))
        places = [(offsets[slots[value]] if value in slots else 0, value in whole) for value in range(len(shapes))]
        return cls(group, places, offsets[-1])


def _at(value: Tensor | int | None) -> int | None:
    return value.data_ptr() if isinstance(value, Tensor) else value
