"""How gradients grow from layer to layer: measured on a batch, and predicted from the activations alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.gaussian_moments import GaussianMoments
from kafnets.analysis.activation_layers import activation_layers
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.losses import cross_entropy


class Moments(NamedTuple):
    """What one activation layer does to signals and gradients: means over its channels.

    Attributes:
        squared_slope: ``E f'(z)^2``.
        variance: ``Var f(z)``.
    """

    squared_slope: float
    variance: float

    @classmethod
    def of(cls, activation: Activation, mean: float = 0.0, std: float = 1.0) -> "Moments":
        """For inputs ``z ~ N(mean, std^2)``; outputs of batch norm are about ``N(0, 1)``.

        Example:
            >>> from kafnets.activations import ReLU
            >>> [round(value, 4) for value in Moments.of(ReLU(1))]
            [0.5, 0.3408]
        """
        return cls.averaged(activation.gaussian_moments(mean, std))

    @classmethod
    def averaged(cls, moments: GaussianMoments) -> "Moments":
        """The means over the channels."""
        return cls(moments.squared_slope.mean().item(), moments.variance.mean().item())


@dataclass(frozen=True)
class ActivationSignal:
    """One activation layer in a forward and a backward pass of one batch.

    Attributes:
        name: of the layer in the network.
        output: root mean square of its outputs.
        gradient: L2 norm of the gradient of the mean loss with respect to its inputs, over the whole batch.
        moments: of the layer at its actual inputs; None if it is not pointwise.
        alignment: ``E[f'^2 g^2] / (E f'^2 E g^2)`` with g the gradient at its outputs; None if it is not pointwise.
            Above 1, gradients are large where f is steep. The predictions assume 1.
    """

    name: str
    output: float
    gradient: float
    moments: Moments | None
    alignment: float | None


@dataclass(frozen=True)
class GradientGrowth:
    """The norms of one forward and backward pass.

    Attributes:
        loss: mean over the batch.
        activations: in the order the network calls them.
        kernels: L2 norm of the gradient of each convolutional and dense kernel, by the layer's name.
    """

    loss: float
    activations: tuple[ActivationSignal, ...]
    kernels: dict[str, float]

    @property
    def per_layer(self) -> float:
        """The factor by which the gradient grows per activation layer, towards the input: a geometric mean."""
        first, last = self.activations[0].gradient, self.activations[-1].gradient
        return (first / last) ** (1 / (len(self.activations) - 1)) if last else math.nan

    @property
    def alignment(self) -> float:
        """The factor per layer by which alignment makes gradients grow faster than predicted: a geometric mean."""
        squared = [signal.alignment or math.nan for signal in self.activations[:-1]]
        return _mean(squared, len(squared))

    @property
    def moments(self) -> list[Moments]:
        """The moments of all activations at their actual inputs, for the predictions of this module.

        Raises:
            TypeError: if an activation is not pointwise.
        """
        found = [signal.moments for signal in self.activations if signal.moments is not None]
        if len(found) < len(self.activations):
            names = ", ".join(signal.name for signal in self.activations if signal.moments is None)
            raise TypeError(f"a prediction needs activations of one value, but each output of {names} depends on many")
        return found


def gradient_growth(
    net: nn.Module, x: Tensor, y: Tensor, *, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
) -> GradientGrowth:
    """Measure norms of activations and gradients in every layer, in one forward and one backward pass.

    Every module runs in the mode in which it is: a network that is trained or was just built uses the statistics of
    the batch. Buffers and gradients of the network are left as they were.

    Args:
        net: any network with at least two activations that are :class:`~kafnets.activations.base.Activation`.
        x: images ``(N, C, H, W)``.
        y: their classes, int64 ``(N,)``.
        loss: ``(logits (N, classes), y) -> (N,)``.

    Raises:
        ValueError: if the network calls fewer than two activations.

    Paper:
        Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz, "A mean field theory of batch normalization", ICLR 2019
        (arXiv 1902.08129).

    Example:
        >>> from kafnets.activations import KAF, ReLU
        >>> from kafnets.backbones import KafResNet
        >>> x, y = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
        >>> for activation in (ReLU, KAF):
        ...     _ = torch.manual_seed(0)
        ...     net = KafResNet(depth=20, activation=activation, image_size=16, width=8)
        ...     print(f"{gradient_growth(net, x, y).per_layer:.1f}")
        1.1
        1.5
    """
    kernels = {name: m.weight for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    with preserve_state(net, eval_mode=False), _calls(net) as calls:
        # inputs that ask for gradients, so that a network with frozen kernels can be measured too
        total = loss(ask(net, x.detach().requires_grad_()), y).mean()
        if len(calls) < 2:
            raise ValueError(f"growth is measured between activations, and the network calls {len(calls)} of them")
        weights = [weight for weight in kernels.values() if weight.requires_grad]
        places = [call.input for call in calls] + [call.output for call in calls]
        found = torch.autograd.grad(total, places + weights, materialize_grads=True)
        ends = zip(found[: len(calls)], found[len(calls) : len(places)], strict=True)
        signals = tuple(_signal(call, *grads) for call, grads in zip(calls, ends, strict=True))
    named = [name for name, weight in kernels.items() if weight.requires_grad]
    norms = [grad.norm().item() for grad in found[len(places) :]]
    return GradientGrowth(total.item(), signals, dict(zip(named, norms, strict=True)))


class _Call(NamedTuple):
    name: str
    module: Activation
    input: Tensor
    output: Tensor


@contextmanager
def _calls(net: nn.Module) -> Iterator[list[_Call]]:
    calls: list[_Call] = []

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls.append(_Call(name, module, inputs[0], output))  # type: ignore[arg-type]

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in activation_layers(net).items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # a compiled graph does not call hooks
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _signal(call: _Call, grad: Tensor, later: Tensor) -> ActivationSignal:
    """Summarise a call from the gradients at its input and at its output."""
    grad, later = grad.double(), later.double()
    moments, alignment = None, None
    if call.module.pointwise:
        z = call.input.detach().requires_grad_()
        values = call.module.forward(z)  # without the hooks
        (slopes,) = torch.autograd.grad(values.sum(), z)
        channels = values.detach().double().transpose(0, 1).flatten(1)
        variance = channels.var(1, correction=0).mean().item()
        moments = Moments(slopes.double().square().mean().item(), variance)
        unaligned = moments.squared_slope * later.square().mean().item()
        alignment = grad.square().mean().item() / unaligned if unaligned else None
    output = call.output.detach().double().square().mean().sqrt().item()
    return ActivationSignal(call.name, output, grad.norm().item(), moments, alignment)


# --- predictions: growth per activation layer, a geometric mean, from the moments of the layers in their order


def growth_of_chain(moments: Sequence[Moments]) -> float:
    """Layers ``conv - BN - f`` without skips: ``sqrt(E f'^2 / Var f)`` per layer.

    Batch norm divides by the standard deviation of its input, which is that of f times the gain of the convolution; the
    backward pass multiplies by the same gain, which therefore has no effect. The last layer's moments have none either:
    growth is counted from its input.

    Example:
        >>> from kafnets.activations import KAF, ReLU, SiLU
        >>> _ = torch.manual_seed(0)
        >>> [round(growth_of_chain([Moments.of(f(256))] * 2), 1) for f in (SiLU, ReLU, KAF)]
        [1.1, 1.2, 1.8]
    """
    return _mean([each.squared_slope / each.variance for each in moments[:-1]], len(moments) - 1)


def growth_of_kaf_blocks(moments: Sequence[Moments]) -> float:
    """The thesis's residual form, which normalises after the addition; see :class:`~kafnets.backbones.KafResNet`.

    With f the activation before a block and g the one inside it, the variance of the sum is ``Var f + Var g``, and the
    squared gradient of a block grows by ``E f'^2 (1 + E g'^2 / Var f) / (Var f + Var g)``. For f = g with the factor
    ``r = E f'^2 / Var f`` of a chain, this is ``r (1 + r) / 2``: above 1 if r is. The skip only halves the exponent.

    Args:
        moments: those of the first activation, then of ``act_a`` and ``act_out`` of every block.

    Example:
        >>> from kafnets.activations import ReLU
        >>> round(growth_of_kaf_blocks([Moments.of(ReLU(1))] * 3), 2)
        1.16
    """
    factors = [
        f.squared_slope * (1 + g.squared_slope / f.variance) / (f.variance + g.variance) for f, g in _blocks(moments)
    ]
    return _mean(factors, len(moments) - 1)


def growth_of_he_blocks(moments: Sequence[Moments]) -> float:
    """He et al.'s residual form, which normalises before the addition; see :class:`~kafnets.backbones.ResNet`.

    The squared gradient of a block grows by ``E f'^2 (1 + E g'^2 / (Var g Var f))``: the variance of the sums, and with
    it ``Var f``, increases from block to block, so that the second term vanishes.

    Args:
        moments: those of the first activation, then of ``act1`` and ``act2`` of every block.
    """
    factors = [f.squared_slope * (1 + g.squared_slope / (g.variance * f.variance)) for f, g in _blocks(moments)]
    return _mean(factors, len(moments) - 1)


def he_moments(activation: Activation, blocks: int) -> list[Moments]:
    """The moments that :func:`growth_of_he_blocks` takes, for normally distributed inputs.

    The input of ``act1`` is ``N(0, 1)``. That of ``act2`` is the sum of a variable of this kind and of the output of
    the ``act2`` before it, whose mean and variance are known: ``mean <- E f``, ``std^2 <- 1 + Var f``.

    Example:
        >>> from kafnets.activations import ReLU
        >>> round(growth_of_he_blocks(he_moments(ReLU(1), blocks=27)), 2)
        1.08
    """
    before = activation.gaussian_moments()
    inner = Moments.averaged(before)
    found = [inner]
    for _ in range(blocks):
        before = activation.gaussian_moments(before.mean.mean().item(), math.sqrt(1 + before.variance.mean().item()))
        found += [inner, Moments.averaged(before)]
    return found


def growth_without_norm(moments: Sequence[Moments], gain: float) -> float:
    """Layers ``conv - f``: ``sqrt(gain E f'^2)`` per layer.

    Args:
        moments: of the layers.
        gain: fan_in times the variance of the kernels: 2 for He's initialisation, about 1 for Glorot's.
    """
    return _mean([gain * each.squared_slope for each in moments[:-1]], len(moments) - 1)


def growth_of_blocks_without_norm(moments: Sequence[Moments], gain: float) -> float:
    """Residual blocks of either form without batch norm: the squared gradient grows by ``E f'^2 (1 + gain^2 E g'^2)``.

    Args:
        moments: those of the first activation, then of the two of every block.
        gain: as in :func:`growth_without_norm`.
    """
    factors = [f.squared_slope * (1 + gain**2 * g.squared_slope) for f, g in _blocks(moments)]
    return _mean(factors, len(moments) - 1)


def _blocks(moments: Sequence[Moments]) -> Iterator[tuple[Moments, Moments]]:
    """The activation before each block, and the one inside it."""
    return zip(moments[:-1:2], moments[1::2], strict=True)


def _mean(squared: Sequence[float], layers: int) -> float:
    """The geometric mean per layer of the growth whose squared factors are given."""
    if not squared or any(factor <= 0 or not math.isfinite(factor) for factor in squared):
        return math.nan
    return math.exp(sum(map(math.log, squared)) / (2 * layers))
