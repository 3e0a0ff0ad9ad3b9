"""The shapes that trainable activations have learned, and the densities of their inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.analysis.activation_layers import activation_layers, recorded_inputs
from kafnets.attacks.queries import ask

SAMPLE = 1_000_000  # pre-activations kept per layer: quantiles and densities need no more
QUANTILES = (0.001, 0.999)


@dataclass(frozen=True)
class ActivationShape:
    """One layer's learned activation, on the CPU in float32.

    Attributes:
        name: the activation's name in the network.
        grid: ``(G,)`` increasing, in units of the pre-activation: its 0.1 % to its 99.9 % quantile.
        curves: ``(C, G)``, ``curves[c]`` is channel c's activation on the grid.
        bin_edges: ``(B + 1,)`` increasing, over the same range as the grid.
        density: ``(B,)``, the histogram of the pre-activations within that range, all channels together; integrates
            to 1.
    """

    name: str
    grid: Tensor
    curves: Tensor
    bin_edges: Tensor
    density: Tensor


@torch.no_grad()
def activation_shapes(
    net: nn.Module, images: Tensor, *, num_points: int = 201, num_bins: int = 80
) -> list[ActivationShape]:
    """The shape of every pointwise activation with trainable parameters, in the order the network calls them.

    One forward pass of ``images`` in eval mode; the network is left as it was (modes, hooks, buffers, gradients, the
    random state). Activations whose outputs depend on many values have no shape and are left out; the parts of an
    activation, such as the KAF of a ResidualKAF, are not listed by themselves. Of layers with more than a million
    pre-activations a random million is used.

    Args:
        net: any network whose activations are :class:`~kafnets.activations.base.Activation`.
        images: a batch the network accepts, ``(N, C, H, W)``; moved to the network's device.
        num_points: grid points G, >= 2.
        num_bins: histogram bins B, >= 1.

    Returns:
        One :class:`ActivationShape` per layer; an empty list if no pointwise activation is trainable.

    Raises:
        ValueError: if ``num_points`` or ``num_bins`` is too small.

    Example:
        >>> from kafnets.activations import PReLU
        >>> shapes = activation_shapes(nn.Sequential(PReLU(3)), torch.randn(8, 3, 4, 4))
        >>> [(shape.name, tuple(shape.curves.shape)) for shape in shapes]
        [('0', (3, 201))]
    """
    if num_points < 2 or num_bins < 1:
        raise ValueError(f"num_points must be >= 2 and num_bins >= 1, got {num_points} and {num_bins}")
    modules = trainable_activations(net)
    if not modules:
        return []
    with eval_mode(net):
        samples = pre_activations(net, modules, images)
        return [_shape(name, modules[name], sample, num_points, num_bins) for name, sample in samples.items()]


def trainable_activations(net: nn.Module) -> dict[str, Activation]:
    """The pointwise activations with parameters, by name, without the parts of an activation."""
    return {name: layer for name, layer in activation_layers(net).items() if layer.pointwise and layer.num_parameters}


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and restore its modes afterwards."""
    # Restored module by module: a global .train() would also change modules that are frozen in evaluation mode.
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def pre_activations(net: nn.Module, modules: dict[str, Activation], images: Tensor) -> dict[str, Tensor]:
    """A sample of each activation's inputs, in the order of the calls."""
    with recorded_inputs(modules, _sample) as found:
        ask(net, images.to(next(net.parameters()).device))
    return found


def _sample(x: Tensor) -> Tensor:
    flat = x.detach().flatten()
    if flat.numel() > SAMPLE:
        # Random, since every k-th value may belong to the same channel. Own generator: no side effects.
        generator = torch.Generator().manual_seed(0)
        flat = flat[torch.randint(flat.numel(), (SAMPLE,), generator=generator).to(flat.device)]
    flat = flat.float().cpu()
    return flat[flat.isfinite()]


@torch.no_grad()
def curves_on(module: Activation, grid: Tensor) -> Tensor:
    """The outputs of a pointwise activation with parameters on a grid ``(G,)``: ``(C, G)``, on the CPU in float32."""
    parameter = next(module.parameters())
    column = grid.to(parameter)[:, None].expand(-1, module.num_channels)
    return module(column).T.float().cpu().contiguous()


def _shape(name: str, module: Activation, sample: Tensor, num_points: int, num_bins: int) -> ActivationShape:
    low, high = _range(sample)
    grid = torch.linspace(low, high, num_points)
    curves = curves_on(module, grid)
    density, edges = torch.histogram(sample, num_bins, range=(low, high), density=True)
    return ActivationShape(name, grid, curves, edges, density.nan_to_num(0.0))


def _range(sample: Tensor) -> tuple[float, float]:
    if not len(sample):
        return -1.0, 1.0  # a diverged network still has shapes
    low, high = torch.quantile(sample, torch.tensor(QUANTILES)).tolist()
    return (low, high) if high > low else (low - 0.5, high + 0.5)
