"""Chains of convolutions with what surrounds them in an evaluated network: batch norm, skip connections, ReLU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kafnets.ops.native import conv as native
from kafnets.ops.native.conv import NONE, Method, Plan, Shape, Step

# The most weights with which each was measured to be faster than PyTorch, and the widest filter.
WINOGRAD_WEIGHTS, DIRECT_WEIGHTS, WIDEST = 512 * 512 * 9, 32 * 64 * 9, 7


@dataclass(frozen=True)
class ConvStep:
    """``relu(scale conv(source - mean, filters) + shift + skip_scale skip)``.

    Args:
        source: number of the value that is convolved: inputs of the chain count from 0, then the outputs of its steps.
        filters: float32 ``(out, in, size, size)``.
        stride: from one output to the next, in both directions.
        padding: zeros above and left of an image, and below and right of it.
        scale, shift, skip_scale: ``(out,)``; None for 1, 0 and 1.
        mean: ``(in,)``, taken from every pixel before zeros are put around the image; None for 0.
        skip: number of the value that is added, of the shape of the output; None for none.
        relu: whether what is negative becomes zero.
    """

    source: int
    filters: Tensor
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    scale: Tensor | None = None
    shift: Tensor | None = None
    mean: Tensor | None = None
    skip: int | None = None
    skip_scale: Tensor | None = None
    relu: bool = False

    def size(self, pixels: int) -> int:
        """Pixels of the output in a direction in which the source has some."""
        return (pixels + sum(self.padding) - self.filters.shape[-1]) // self.stride + 1

    @property
    def scaled(self) -> Tensor:
        """The filters, times their scales."""
        return self.filters if self.scale is None else self.filters * self.scale.view(-1, 1, 1, 1)

    def check_constants(self) -> None:
        """Raise ``ValueError`` where one is not of the shape above."""
        outputs, inputs = self.filters.shape[:2]
        for name, count in {"scale": outputs, "shift": outputs, "skip_scale": outputs, "mean": inputs}.items():
            value = getattr(self, name)
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} must be of shape ({count},), one a channel, got {tuple(value.shape)}")

    def plain(self, values: Sequence[Tensor]) -> Tensor:
        """The step by PyTorch."""
        x = values[self.source]
        x = x if self.mean is None else x - self.mean.view(-1, 1, 1)
        y = F.conv2d(F.pad(x, self.padding * 2), self.scaled, self.shift, stride=self.stride)
        if self.skip is not None:
            skip = values[self.skip]
            y = y + (skip if self.skip_scale is None else skip * self.skip_scale.view(-1, 1, 1))
        return y.relu() if self.relu else y

    def suits_winograd(self, *, turned: bool = False) -> bool:
        """Whether Winograd's algorithm is built in for it, or (``turned``) for its gradient."""
        same = (self.stride, self.padding) == (1, (1, 1))
        usual = self.filters.shape[-1] == 3 and (same or (self.stride == 2 and self.padding[0] <= 1))
        channels = self.filters.shape[0 if turned else 1]
        whole = channels % native.library().conv_lanes() == 0
        possible = usual and whole and (turned or self.mean is None)
        return possible and self.filters.numel() <= WINOGRAD_WEIGHTS

    @property
    def suits(self) -> bool:
        """Whether a chain computes it, and faster than PyTorch."""
        if self.filters.dtype != torch.float32 or self.filters.device.type != "cpu":
            return False
        whole = self.filters.shape[0] % native.library().conv_lanes() == 0
        small = self.filters.shape[-1] <= WIDEST and self.filters.numel() <= DIRECT_WEIGHTS
        return whole and (small or self.suits_winograd())


class ConvChain:
    """Several convolutions, differentiable by the inputs alone, in C++ on a CPU.

    A few images go through all steps at a time, so that what lies between the steps stays in the cache. 3x3
    convolutions of stride 1 take a quarter of the multiplications by Winograd's F(4x4, 3x3) (Lavin and Gray 2016, arXiv
    1509.09308, section 4.2), of stride 2 nine sixteenths by F(4, 2). Over 16 to 512 channels one errs by up to 1.8e-6
    of the largest output, PyTorch's by up to 0.6e-6; with stride 2 by up to 1.6e-6, PyTorch's by up to 2.6e-6. Where a
    sum is not finite, PyTorch computes the chain. Such filters are kept transformed, both ways: eight times their
    memory.

    Args:
        inputs: how many there are.
        steps: in order, each one that :attr:`ConvStep.suits`; tensors in them are constants.

    Raises:
        BuildError: if there is no C++ library.
        ValueError: if a step does not suit, or a constant of it has another shape; if nothing reads an input, or an
            output but the last.
    """

    def __init__(self, inputs: int, steps: Sequence[ConvStep]) -> None:
        if unfit := [step.filters.shape for step in steps if not step.suits]:
            raise ValueError(f"a chain has no way to convolve with filters {[tuple(shape) for shape in unfit]}")
        for step in steps:
            step.check_constants()
        read = {value for step in steps for value in (step.source, step.skip)}
        if unread := set(range(inputs + len(steps) - 1)) - read:
            raise ValueError(
                f"no step of a chain with {inputs} inputs reads the values {sorted(unread)}; leave them out"
            )
        self.inputs, self.steps = inputs, list(steps)
        self._there = [_forward_step(step, inputs + at) for at, step in enumerate(self.steps)]
        self._back, self._gradient_of = _backward_steps(inputs, self.steps)
        self._gated = [inputs + at for at, step in enumerate(self.steps) if step.relu]
        self._plans: dict[Any, _Plans] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The output of the last step, ``(N, out, H, W)``, channels_last.

        Args:
            inputs: float32 ``(N, C, H, W)`` each.

        Raises:
            ValueError: if they do not fit each other or the steps.
        """
        return _Apply.apply(self, *inputs)

    def plain(self, inputs: Sequence[Tensor]) -> Tensor:
        """The same by PyTorch."""
        values = list(inputs)
        for step in self.steps:
            values.append(step.plain(values))
        return values[-1]

    def forward(self, inputs: Sequence[Tensor], *, differentiable: bool) -> tuple[Tensor, Tensor | None] | None:
        """The output, and what the ReLUs let through, for the gradient; None where a sum is not finite."""
        plans = self._plans_for(inputs)
        plan = plans.there if differentiable else plans.there_alone
        y, gates = _empty(inputs[0], plans.output), plan.empty_gates(len(inputs[0])) if differentiable else None
        return (y, gates) if plan.run([*map(_as_read, inputs), y], gates) else None

    def backward(self, inputs: Sequence[Tensor], gates: Tensor, grad: Tensor) -> list[Tensor] | None:
        """The gradients of the inputs; None where a sum is not finite."""
        plans = self._plans_for(inputs)
        grads = [torch.empty_like(_as_read(inputs[of])) for of in plans.gradient_of]
        finite = plans.back.run([native.channels_last(grad), *grads], gates)
        return [grads[plans.gradient_of.index(of)] for of in range(self.inputs)] if finite else None

    def _plans_for(self, inputs: Sequence[Tensor]) -> "_Plans":
        for x in inputs:
            if x.dtype != torch.float32 or x.device.type != "cpu" or x.dim() != 4 or len(x) != len(inputs[0]):
                found = ", ".join(f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in inputs)
                raise ValueError(f"a chain takes float32 (N, C, H, W) on a CPU, of one N, got {found}")
        sizes = tuple(x.shape[1:] for x in inputs)
        if sizes not in self._plans:
            self._plans[sizes] = self._plans_of([Shape(*size) for size in sizes])
        return self._plans[sizes]

    def _plans_of(self, inputs: list[Shape]) -> "_Plans":
        """For inputs of these shapes."""
        there = self._shapes(inputs)
        ends = {*range(self.inputs), len(there) - 1}
        back = there + [there[of] for of in self._gradient_of]
        wanted = {len(there) + at: of for at, of in enumerate(self._gradient_of) if of < self.inputs}
        return _Plans(
            there[-1],
            _plan(there, ends, self._gated, self._there),
            _plan(there, ends, [], self._there),
            _plan(back, {len(there), *wanted}, self._gated, self._back),
            list(wanted.values()),
        )

    def _shapes(self, inputs: list[Shape]) -> list[Shape]:
        """Of all values."""
        shapes = list(inputs)
        for step in self.steps:
            source = shapes[step.source]
            shape = Shape(len(step.filters), step.size(source.height), step.size(source.width))
            if min(shape.height, shape.width) < 1:
                raise ValueError(
                    f"images of {source.height} x {source.width} pixels are too small for {step.filters.shape}"
                )
            if source.channels != step.filters.shape[1] or (step.skip is not None and shapes[step.skip] != shape):
                raise ValueError(f"{step.filters.shape[1]} channels and a skip of {shape} do not fit {shapes}")
            shapes.append(shape)
        return shapes


@dataclass(frozen=True)
class _Plans:
    """Of a chain, for images of a size.

    Attributes:
        output: its shape.
        there, there_alone: with what ReLU let through, and without.
        back: from the gradient of the output to those of the inputs.
        gradient_of: the inputs in the order in which their gradients are made.
    """

    output: Shape
    there: Plan
    there_alone: Plan
    back: Plan
    gradient_of: list[int]


def _plan(shapes: list[Shape], held: set[int], gated: list[int], steps: list[Step]) -> Plan:
    return Plan([replace(s, held=at in held, gates=at in gated) for at, s in enumerate(shapes)], steps)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: ConvChain, *inputs: Tensor) -> Tensor:
        found = chain.forward(inputs, differentiable=any(ctx.needs_input_grad))
        ctx.chain, ctx.finite = chain, found is not None
        y, gates = found or (chain.plain(inputs), None)
        ctx.save_for_backward(gates, *inputs)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        chain = ctx.chain
        gates, *inputs = ctx.saved_tensors
        grads = chain.backward(inputs, gates, grad) if ctx.finite else None
        if grads is None:
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_(True) for x in inputs]
                grads = torch.autograd.grad(chain.plain(leaves), leaves, grad)
        return None, *grads


def _as_read(x: Tensor) -> Tensor:
    """An input in a memory layout that a chain takes: images of few channels as they are, mostly."""
    few = x.shape[1] % native.library().conv_lanes() > 0
    return x if few and x.is_contiguous() else native.channels_last(x)


def _empty(like: Tensor, shape: Shape) -> Tensor:
    size = (len(like), shape.channels, shape.height, shape.width)
    return torch.empty(size, memory_format=torch.channels_last)


def _convolution(step: ConvStep, *, turned: bool) -> Step:
    """The convolution of a step, or of its gradient."""
    if step.suits_winograd(turned=turned):
        method = Method.SAME if step.stride == 1 else Method.GROW if turned else Method.SHRINK
        weights = native.frequencies(step.filters, step.scale, stride=step.stride, turned=turned)
        return Step(method=method, weights=weights, before=step.padding[0])
    return Step(
        method=Method.BACK if turned else Method.DIRECT,
        weights=native.taps(step.scaled, turned=turned),
        size=step.filters.shape[-1],
        stride=step.stride,
        before=step.padding[0],
    )


def _forward_step(step: ConvStep, target: int) -> Step:
    return replace(
        _convolution(step, turned=False),
        target=target,
        source=step.source,
        shift=_dense(step.shift),
        mean=_dense(step.mean),
        skip=NONE if step.skip is None else step.skip,
        skip_scale=_dense(step.skip_scale),
        relu=step.relu,
    )


def _dense(value: Tensor | None) -> Tensor | None:
    """Constants as C++ reads them."""
    return None if value is None else value.to(torch.float32).contiguous()


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Of factors, None for 1."""
    return b if a is None else a if b is None else a * b


def _backward_steps(inputs: int, steps: list[ConvStep]) -> tuple[list[Step], list[int]]:
    """From the gradient of the last output to those of the inputs.

    Returns:
        The steps, which count the values of the chain first, then gradients; and which value each gradient is of.
    """
    values = inputs + len(steps)
    todo: list[Step] = []
    gradient_of, number = [values - 1], {values - 1: values}
    skips: dict[int, list[Step]] = {}  # of a value: what is still to be added to its gradient

    def add(of: int, step: Step) -> None:
        """Take a step, on top of what the gradient of a value is already."""
        if of in number and step.method is Method.ADD:
            step.source = number[of]
        elif of in number:
            step.skip = number[of]
        else:
            number[of] = values + len(gradient_of)
            gradient_of.append(of)
        todo.append(replace(step, target=number[of]))

    def add_skips(of: int) -> None:
        for step in skips.pop(of, []):
            add(of, step)

    for at in reversed(range(len(steps))):
        step, of = steps[at], inputs + at
        if of not in number and len(skips.get(of, [])) == 1 and step.skip is None and not step.relu:
            (skip,) = skips.pop(of)  # its gradient is another's, through a gate: no need to write it down
            source, gate, scale = skip.skip, skip.skip_gate, _product(step.scale, skip.skip_scale)
        else:
            add_skips(of)
            source, gate, scale = number[of], of if step.relu else NONE, step.scale
        if step.skip is not None:
            to_skip = Step(skip=source, skip_gate=gate, skip_scale=_dense(step.skip_scale))
            skips.setdefault(step.skip, []).append(to_skip)
        back = replace(_convolution(replace(step, scale=scale), turned=True), source=source, gate=gate)
        if step.source not in number and skips.get(step.source):  # on the way, instead of one more pass
            skip = skips[step.source].pop()
            back = replace(back, skip=skip.skip, skip_gate=skip.skip_gate, skip_scale=skip.skip_scale)
        add(step.source, back)
    for of in range(inputs):
        add_skips(of)
    return todo, gradient_of
