"""Translates the steps of a chain, and their gradients, into steps of the C++ code."""

from dataclasses import replace

import torch
from torch import Tensor

from kafnets.fused.native import library
from kafnets.fused.native.steps import NONE, Method, NativeStep
from kafnets.fused.native.weights import frequencies, taps
from kafnets.fused.step import ConvStep


def forward_step(step: ConvStep, target: int) -> NativeStep:
    """The step that writes the value with the number ``target``."""
    return replace(
        _convolution(step, transposed=False),
        target=target,
        source=step.source,
        shift=_dense(step.shift),
        mean=_dense(step.mean),
        skip=NONE if step.skip is None else step.skip,
        skip_scale=_dense(step.skip_scale),
        relu=step.relu,
    )


def backward_steps(inputs: int, steps: list[ConvStep]) -> tuple[list[NativeStep], list[int]]:
    """The steps that take the gradient of the last output to the gradients of the inputs.

    Returns:
        The steps, whose values are numbered: first the values of the chain, then gradients; and for each gradient the
        number of the value that it belongs to.
    """
    values = inputs + len(steps)
    todo: list[NativeStep] = []
    gradient_of, number = [values - 1], {values - 1: values}
    skips: dict[int, list[NativeStep]] = {}  # per value: the terms of its gradient, from additions, still to be added

    def add(of: int, step: NativeStep) -> None:
        """Append a step that adds to the gradient of a value, or starts it."""
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
            (skip,) = skips.pop(of)  # the only term is another gradient, gated and scaled: read it there, no copy
            source, gate, scale = skip.skip, skip.skip_gate, _product(step.scale, skip.skip_scale)
        else:
            add_skips(of)
            source, gate, scale = number[of], of if step.relu else NONE, step.scale
        if step.skip is not None:
            to_skip = NativeStep(skip=source, skip_gate=gate, skip_scale=_dense(step.skip_scale))
            skips.setdefault(step.skip, []).append(to_skip)
        back = replace(_convolution(replace(step, scale=scale), transposed=True), source=source, gate=gate)
        if step.source not in number and skips.get(step.source):  # saves one pass over the gradient
            skip = skips[step.source].pop()
            back = replace(back, skip=skip.skip, skip_gate=skip.skip_gate, skip_scale=skip.skip_scale)
        add(step.source, back)
    for of in range(inputs):
        add_skips(of)
    return todo, gradient_of


def _convolution(step: ConvStep, *, transposed: bool) -> NativeStep:
    """The convolution of a step, or (``transposed``) of its gradient."""
    lib = library.conv_library()
    if step.suits_winograd(transposed=transposed):
        method = Method.SAME if step.stride == 1 else Method.GROW if transposed else Method.SHRINK
        weights = frequencies(step.filters, step.scale, stride=step.stride, transposed=transposed, lib=lib)
        return NativeStep(method=method, weights=weights, before=step.padding[0])
    return NativeStep(
        method=Method.BACK if transposed else Method.DIRECT,
        weights=taps(step.scaled, transposed=transposed, lib=lib),
        size=step.filters.shape[-1],
        stride=step.stride,
        before=step.padding[0],
    )


def _dense(value: Tensor | None) -> Tensor | None:
    """Constants as C++ reads them."""
    return None if value is None else value.to(torch.float32).contiguous()


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Product of two factors, where None stands for 1."""
    return b if a is None else a if b is None else a * b
