"""Chains of convolutions in C++, a few images at a time through all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kafnets.fused.lowering import backward_steps, forward_step
from kafnets.fused.native import library
from kafnets.fused.native.plan import ChainPlan
from kafnets.fused.native.steps import NativeStep, ValueShape
from kafnets.fused.step import ConvStep


class ConvChain:
    """Several convolutions in C++ on a CPU, differentiable with respect to the inputs only.

    A few images at a time go through all steps, so that the values between the steps stay in the cache. 3x3
    convolutions take a quarter of the multiplications with stride 1, by Winograd's F(4x4, 3x3) (Lavin and Gray 2016,
    arXiv 1509.09308, section 4.2), and nine sixteenths with stride 2, by F(4, 2). For 16 to 512 channels, the error of
    one convolution is at most 1.8e-6 of the largest output (PyTorch: 0.6e-6); with stride 2 it is at most 1.6e-6
    (PyTorch: 2.6e-6). Where a sum is not finite, PyTorch computes the chain. Winograd's filters are stored transformed,
    for both directions, which takes eight times their memory.

    Args:
        inputs: number of inputs.
        steps: in order, each one that :attr:`ConvStep.suits`; tensors in them are constants.

    Raises:
        BuildError: if there is no C++ library.
        ValueError: if a step does not suit, or a constant of it has another shape; if no step reads an input, or an
            output other than the last.
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
        self._forward_steps = [forward_step(step, inputs + at) for at, step in enumerate(self.steps)]
        self._backward_steps, self._gradient_of = backward_steps(inputs, self.steps)
        self._gated = [inputs + at for at, step in enumerate(self.steps) if step.relu]
        self._plans: dict[Any, _ChainPlans] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The output of the last step, ``(N, out, H, W)``, channels_last.

        Args:
            inputs: float32 ``(N, C, H, W)`` each.

        Raises:
            ValueError: if the inputs do not fit each other or the steps.
        """
        return _Apply.apply(self, *inputs)

    def plain(self, inputs: Sequence[Tensor]) -> Tensor:
        """The output computed by PyTorch."""
        values = list(inputs)
        for step in self.steps:
            values.append(step.plain(values))
        return values[-1]

    def forward(self, inputs: Sequence[Tensor], *, differentiable: bool) -> tuple[Tensor, Tensor | None] | None:
        """The output, and the gates of the ReLUs if a gradient is wanted; None where a sum is not finite."""
        plans = self._plans_for(inputs)
        plan = plans.forward if differentiable else plans.forward_without_gates
        y, gates = _empty(inputs[0], plans.output), plan.empty_gates(len(inputs[0])) if differentiable else None
        return (y, gates) if plan.run([*map(_as_read, inputs), y], gates) else None

    def backward(self, inputs: Sequence[Tensor], gates: Tensor, grad: Tensor) -> list[Tensor] | None:
        """The gradients of the inputs; None where a sum is not finite."""
        plans = self._plans_for(inputs)
        grads = [torch.empty_like(_as_read(inputs[of])) for of in plans.gradient_of]
        finite = plans.backward.run([library.channels_last(grad), *grads], gates)
        return [grads[plans.gradient_of.index(of)] for of in range(self.inputs)] if finite else None

    def _plans_for(self, inputs: Sequence[Tensor]) -> "_ChainPlans":
        for x in inputs:
            if x.dtype != torch.float32 or x.device.type != "cpu" or x.dim() != 4 or len(x) != len(inputs[0]):
                found = ", ".join(f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in inputs)
                raise ValueError(f"a chain takes float32 (N, C, H, W) on a CPU, with the same N, got {found}")
        sizes = tuple(x.shape[1:] for x in inputs)
        if sizes not in self._plans:
            self._plans[sizes] = self._plans_of([ValueShape(*size) for size in sizes])
        return self._plans[sizes]

    def _plans_of(self, inputs: list[ValueShape]) -> "_ChainPlans":
        values = self._shapes(inputs)
        ends = {*range(self.inputs), len(values) - 1}
        with_gradients = values + [values[of] for of in self._gradient_of]
        wanted = {len(values) + at: of for at, of in enumerate(self._gradient_of) if of < self.inputs}
        return _ChainPlans(
            values[-1],
            _plan(values, ends, self._gated, self._forward_steps),
            _plan(values, ends, [], self._forward_steps),
            _plan(with_gradients, {len(values), *wanted}, self._gated, self._backward_steps),
            list(wanted.values()),
        )

    def _shapes(self, inputs: list[ValueShape]) -> list[ValueShape]:
        """The shapes of all values."""
        shapes = list(inputs)
        for step in self.steps:
            source = shapes[step.source]
            shape = ValueShape(len(step.filters), step.size(source.height), step.size(source.width))
            if min(shape.height, shape.width) < 1:
                raise ValueError(
                    f"images of {source.height} x {source.width} pixels are too small for {step.filters.shape}"
                )
            if source.channels != step.filters.shape[1] or (step.skip is not None and shapes[step.skip] != shape):
                raise ValueError(f"{step.filters.shape[1]} channels and a skip of {shape} do not fit {shapes}")
            shapes.append(shape)
        return shapes


@dataclass(frozen=True)
class _ChainPlans:
    """The plans of a chain for images of one size.

    Attributes:
        output: shape of the output.
        forward: from the inputs to the output and the gates of the ReLUs.
        forward_without_gates: from the inputs to the output only.
        backward: from the gradient of the output and the gates to the gradients of the inputs.
        gradient_of: the inputs, in the order in which ``backward`` computes their gradients.
    """

    output: ValueShape
    forward: ChainPlan
    forward_without_gates: ChainPlan
    backward: ChainPlan
    gradient_of: list[int]


def _plan(shapes: list[ValueShape], held: set[int], gated: list[int], steps: list[NativeStep]) -> ChainPlan:
    shapes = [replace(shape, held=at in held, gates=at in gated) for at, shape in enumerate(shapes)]
    return ChainPlan(shapes, steps, library.conv_library())


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
    """An input in a layout that C++ reads: channels_last, or contiguous if its channels do not fill vectors."""
    few = x.shape[1] % library.lanes() > 0
    return x if few and x.is_contiguous() else library.channels_last(x)


def _empty(like: Tensor, shape: ValueShape) -> Tensor:
    size = (len(like), *shape.size)
    return torch.empty(size, memory_format=torch.channels_last)
