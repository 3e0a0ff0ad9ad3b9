"""Steps that C++ runs again and again: memory assigned, weights and addresses in the structures of conv.cpp."""

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p
from dataclasses import replace

import torch
from torch import Tensor

from kafnets.fused.native.memory import Memory
from kafnets.fused.native.steps import NONE, WINOGRAD, NativeStep, ValueShape


class _ValueStruct(ctypes.Structure):  # `Value` in conv.cpp
    _fields_ = (
        ("data", c_void_p),
        ("gate", c_void_p),
        ("offset", c_int64),
        *((name, c_int32) for name in ("whole", "planar", "channels", "height", "width")),
    )


class _StepStruct(ctypes.Structure):  # `Step` in conv.cpp
    _fields_ = (
        *((name, c_int32) for name in ("source", "gate", "skip", "skip_gate", "target", "relu")),
        *((name, c_int32) for name in ("method", "room", "parts", "size", "stride", "before")),
        *((name, c_void_p) for name in ("weights", "shift", "skip_scale", "mean")),
        ("joined", c_int32),
    )


class _ChainStruct(ctypes.Structure):  # `Chain` in conv.cpp
    _fields_ = (
        *((name, c_int64) for name in ("images", "scratch")),
        *((name, c_void_p) for name in ("values", "steps")),
        *((name, c_int32) for name in ("length", "group", "threads")),
    )


class ChainPlan:
    """Steps for values of fixed shapes, prepared once and run on many batches.

    Args:
        shapes: of the values, by number.
        steps: in order.
        lib: the compiled library.
    """

    def __init__(self, shapes: Sequence[ValueShape], steps: Sequence[NativeStep], lib: ctypes.CDLL) -> None:
        self.steps = steps = _joined(shapes, steps)  # holds the tensors whose addresses C++ reads
        self.memory = Memory.of(shapes, steps)
        self._lib, self._held = lib, [number for number, shape in enumerate(shapes) if shape.held]
        lanes = lib.conv_lanes()
        self._partial_vectors = {number for number, shape in enumerate(shapes) if shape.channels % lanes}
        self._gate_dtype = torch.int16 if lanes > 8 else torch.int8
        self._gates = {number: shape.floats // lanes for number, shape in enumerate(shapes) if shape.gates}
        placed = zip(self.memory.places, shapes, strict=True)
        values = (_ValueStruct(None, None, *place, 0, *shape.size) for place, shape in placed)
        self._values = (_ValueStruct * len(shapes))(*values)
        self._steps = (_StepStruct * len(steps))(*(_step_struct(shapes, step) for step in steps))

    def empty_gates(self, images: int) -> Tensor:
        """Memory for the gates of so many images: one bit per number, one word per vector."""
        return torch.empty(images * sum(self._gates.values()), dtype=self._gate_dtype)

    def run(self, tensors: Sequence[Tensor], gates: Tensor | None = None) -> bool:
        """Run the steps. Returns False if a sum is not finite or memory is short; then the results are unusable.

        Args:
            tensors: float32 ``(N, C, H, W)``, for the values that are held, in order: channels_last; or contiguous, if
                no Winograd convolution reads them and their channels do not fill vectors.
            gates: from :meth:`empty_gates`, for the values whose gates are stored.
        """
        values = type(self._values).from_buffer_copy(self._values)  # a copy per call: other threads may run this plan
        images = len(tensors[0])
        if gates is not None:
            at, size = gates.data_ptr(), images * gates.itemsize
            for number, words in self._gates.items():
                values[number].gate = at
                at += size * words
        for number, tensor in zip(self._held, tensors, strict=True):
            values[number].data = tensor.data_ptr()
            values[number].planar = number in self._partial_vectors and tensor.is_contiguous()
        chain = _ChainStruct(images, self.memory.size, ctypes.addressof(values), ctypes.addressof(self._steps))
        chain.length, chain.group, chain.threads = len(self._steps), self.memory.group, torch.get_num_threads()
        return bool(self._lib.conv_run(ctypes.byref(chain)))


def _step_struct(shapes: Sequence[ValueShape], step: NativeStep) -> _StepStruct:
    names = [name for name, *_ in _StepStruct._fields_ if name != "room"]
    given = {name: getattr(step, name) for name in names}
    addresses = {name: value.data_ptr() for name, value in given.items() if isinstance(value, Tensor)}
    return _StepStruct(room=shapes[step.target].images_at_a_time, **{**given, **addresses})


def _joined(shapes: Sequence[ValueShape], steps: Sequence[NativeStep]) -> list[NativeStep]:
    """The steps; the second of two neighbours is joined to the first where they can share a Winograd transform.

    Two steps with one source share the transform of that source. Two steps whose results are added up share the
    transform of the sum. The two paths of a block that halves the image are such a pair, forward and backward.
    """
    found: list[NativeStep] = []
    for step in steps:
        if found and not found[-1].joined and _transform_alike(shapes, found[-1], step):
            before, plain = found[-1], not step.relu and step.shift is step.skip_scale is None
            if step.target != before.target:
                step = replace(step, joined=(step.source, step.gate) == (before.source, before.gate))
            elif plain and (step.skip, step.skip_gate) == (step.target, NONE) and not before.relu:
                step = replace(step, joined=True, skip=NONE)
        found.append(step)
    return found


def _transform_alike(shapes: Sequence[ValueShape], one: NativeStep, other: NativeStep) -> bool:
    """Whether two steps use the same Winograd transforms on values of the same sizes."""
    if one.method != other.method or one.method not in WINOGRAD or one.weights is None or other.weights is None:
        return False
    same_filters = (one.before, one.weights.shape) == (other.before, other.weights.shape)
    pairs = ((one.source, other.source), (one.target, other.target))
    return same_filters and all(shapes[a].size == shapes[b].size for a, b in pairs)
