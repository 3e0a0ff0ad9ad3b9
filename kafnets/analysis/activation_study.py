"""Everything about the activations of one network on clean and on attacked images, as one record."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.analysis.activation_drift import drift
from kafnets.analysis.activation_layers import activation_layers
from kafnets.analysis.activation_shapes import curves_on
from kafnets.analysis.activation_statistics import statistics
from kafnets.analysis.gradient_alignment import gradient_alignment
from kafnets.analysis.loss_surface import loss_surface, random_step
from kafnets.analysis.over_runs import spread
from kafnets.analysis.pre_activations import Distances, LayerInputs, layer_inputs
from kafnets.analysis.robustness_record import counted
from kafnets.analysis.smoothness import smoothness
from kafnets.attacks import Attack
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

Record: TypeAlias = dict[str, Any]

CURVES, POINTS, BARS = 8, 81, 60  # channels and points of a shape, bars of a density that a record keeps
SHOWN = (0.001, 0.999)  # quantiles of the clean inputs between which shapes and densities are kept
SURFACE_IMAGES = 32
NOISE, ALIGNMENT, SURFACE = 101, 102, 103  # what random numbers of an image are drawn for


def activation_study(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    index: Tensor,
    starts: Mapping[str, Activation] | None = None,
    attacked_as: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 100,
) -> Record:
    """Attack images, and describe what the network's activations do with them; the network is left as it was.

    Every image takes all steps of the attack, also one that is misclassified earlier or from the start: otherwise the
    distances of a robust network would be larger because its images are attacked for longer. As a control, each image
    is also moved by eps in a random direction.

    Args:
        net: the network, used in evaluation mode.
        x: images ``(N, C, H, W)`` in [0, 1], N >= 2, on the device of the network.
        y: true classes, int64 ``(N,)``.
        attack: with one restart; its threat model is that of everything measured.
        index: the number of each image in its set, int64 ``(N,)``: the seeds of random numbers.
        starts: activations as they were before training, by layer.
        attacked_as: a faster form of the network, equal up to rounding, for all that needs only its logits and the
            gradients at the images.
        batch_size: images per batch, >= 1.

    Returns:
        Numbers, texts, lists and dictionaries only; infinite numbers are the text ``"inf"``.

        ``images``; ``trainable``: whether activations have parameters; ``attack``: its settings; ``clean``,
        ``attacked``: numbers of right images, with Wilson's interval.
        ``layers``: one dictionary per activation layer in the order of the calls, see :func:`_layer`.
        ``surface``: ``steps`` and the mean ``loss`` over 32 images, see
        :class:`~kafnets.analysis.loss_surface.LossSurface`; ``rise``, ``bend``: their means, as means below.
        ``alignment``: mean of the cosines of :func:`~kafnets.analysis.gradient_alignment.gradient_alignment`, their
        ``values``, and ``undefined``: the number of images where a gradient is zero.
        ``statistics``: one number per name, see :mod:`kafnets.analysis.activation_statistics`.
        A mean is a list ``[mean, low, high]`` with Student's 95 % interval over the images.

    Raises:
        ValueError: if there are fewer than two images, the network has no activation layer, or one of its inputs is not
            finite.
    """
    layers = activation_layers(net)
    if not layers:
        raise ValueError("the network has no activation layer of kafnets, so there is nothing to study")
    if len(x) < 2:
        raise ValueError(f"an interval needs two images or more, got {len(x)}")
    quick = attacked_as or net
    adversarial, noisy, surfaces, alignments = [], [], [], []
    right: dict[str, list[Tensor]] = {"clean": [], "attacked": []}
    for rows in torch.arange(len(x), device=x.device).split(batch_size):
        images, classes, numbers = x[rows], y[rows], index[rows]
        found = attack.craft(quick, images, classes, keys=image_keys(numbers), eval_mode=True)
        keys = {use: image_keys(numbers, use) for use in (NOISE, ALIGNMENT, SURFACE)}
        moved = random_step(images, attack.threat, keys[NOISE])
        noisy.append(attack.norm.project(moved, images, attack.eps))
        adversarial.append(found)
        right["clean"].append(_right(net, images, classes))
        right["attacked"].append(_right(net, found, classes))
        alignments.append(gradient_alignment(quick, images, classes, attack.threat, keys=keys[ALIGNMENT]))
        part = slice(max(0, SURFACE_IMAGES - int(rows[0])))
        if part.stop:
            surfaces.append(loss_surface(quick, images[part], classes[part], attack.threat, keys=keys[SURFACE][part]))
    sets = {"clean": x, "attacked": torch.cat(adversarial), "noise": torch.cat(noisy)}
    inputs = layer_inputs(net, layers, sets, batch_size=batch_size)
    record = {
        "images": len(x),
        "trainable": any(layer.num_parameters for layer in layers.values()),
        "attack": attack.settings(),
        **{name: counted(torch.cat(parts)) for name, parts in right.items()},
        "layers": [_layer(name, layers[name], found, (starts or {}).get(name)) for name, found in inputs.items()],
        "surface": _surface(surfaces),
        "alignment": _alignment(torch.cat(alignments)),
    }
    return record | {"statistics": statistics(record)}


def _right(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with preserve_state(net, eval_mode=True), torch.no_grad():
        return is_correct(ask(net, x), y).cpu()


def _layer(name: str, layer: Activation, inputs: LayerInputs, start: Activation | None) -> Record:
    """One layer of a record.

    ``name``, ``activation``, ``channels``; ``low``, ``high``: the range of its inputs; ``density``: bin ``edges``
    between the 0.1 and the 99.9 % quantile of the clean inputs, and the densities ``clean`` and ``attacked``.
    ``distances``: for ``attacked`` and ``noise`` the means ``l2``, ``relative`` and ``angle``.
    ``shape``: points ``x``, ``y`` with a list for each of at most 8 channels, their ``mean`` over all channels and
    ``start``, before training, or None; None for an activation that is not pointwise. ``drift``, or None.
    ``slope``, ``curvature``: upper bounds, the largest of all channels; ``median_curvature``; ``share_in_band``;
    ``squared_slope``, ``squared_curvature``; each None where it is not defined.
    ``outside``: shares for ``clean`` and ``attacked``, empty without a dictionary; ``flat``, ``dead``.
    """
    counts = inputs.counts["clean"]
    smooth = smoothness(layer, inputs.edges, counts)
    edges, densities = _densities(inputs)
    return {
        "name": name,
        "activation": layer.label,
        "channels": layer.num_channels,
        "low": _number(inputs.edges[0]),
        "high": _number(inputs.edges[-1]),
        "density": {"edges": _numbers(edges)} | {kind: _numbers(densities[kind]) for kind in ("clean", "attacked")},
        "distances": {kind: _means(found) for kind, found in inputs.distances.items()},
        "shape": _shape(layer, start, edges) if layer.pointwise else None,
        "drift": None if start is None else _number(drift(layer, start, inputs.edges, counts)),
        "slope": smooth and _number(smooth.slope.max()),
        "curvature": smooth and _number(smooth.curvature.max()),
        "median_curvature": smooth and _number(smooth.curvature.median()),
        "share_in_band": smooth and _number(smooth.share_in_band),
        "squared_slope": inputs.squared_slope and _number(inputs.squared_slope),
        "squared_curvature": smooth and _number(smooth.squared_curvature),
        "outside": {kind: _number(inputs.outside[kind]) for kind in ("clean", "attacked") if inputs.outside},
        "flat": _number(inputs.flat),
        "dead": _number(inputs.dead),
    }


def _densities(inputs: LayerInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Fewer and wider bins of all channels together; each density integrates to the share of inputs within them."""
    counts = {kind: found.sum(0) for kind, found in inputs.counts.items()}
    share = counts["clean"].cumsum(0) / counts["clean"].sum()
    first, last = (int((share < quantile).sum()) for quantile in SHOWN)
    width = max(1, math.ceil((last + 1 - first) / BARS))
    bars = math.ceil((last + 1 - first) / width)
    last = min(len(share), first + bars * width)
    first = max(0, last - bars * width)
    places = torch.arange(first, last + 1, width).clamp(max=len(share))
    edges = inputs.edges[places]
    found = {}
    for kind, values in counts.items():
        total = torch.cat([values.new_zeros(1), values.cumsum(0)])
        found[kind] = total[places].diff() / edges.diff() / values.sum()
    return edges, found


def _shape(layer: Activation, start: Activation | None, edges: Tensor) -> Record:
    grid = torch.linspace(float(edges[0]), float(edges[-1]), POINTS)
    curves = _curves(layer, grid)
    chosen = torch.linspace(0, len(curves) - 1, min(CURVES, len(curves))).round().long()
    before = None if start is None else _curves(start, grid)
    return {
        "x": _numbers(grid),
        "y": [_numbers(curve) for curve in curves[chosen]],
        "mean": _numbers(curves.mean(0)),
        "start": None if before is None else _numbers(before.mean(0)),
    }


def _curves(layer: Activation, grid: Tensor) -> Tensor:
    """One curve for each different channel."""
    if layer.num_parameters:
        return curves_on(layer, grid)
    return layer.plot((float(grid[0]), float(grid[-1])), len(grid)).values[:1].float()


def _surface(parts: list[Any]) -> Record:
    loss = torch.cat([part.loss for part in parts])
    steps = parts[0].steps
    middle, one = len(steps) // 2, int((steps - 1).abs().argmin())
    rise = loss[:, one, middle] - loss[:, middle, middle]
    bend = torch.cat([part.bend for part in parts])
    return {
        "images": len(loss),
        "steps": _numbers(steps),
        "loss": [_numbers(row) for row in loss.mean(0)],
        "rise": _mean(rise),
        "bend": _mean(bend),
    }


def _alignment(cosine: Tensor) -> Record:
    usable = cosine[cosine.isfinite()]
    return {
        "mean": _mean(usable) if len(usable) > 1 else None,
        "values": _numbers(usable),
        "undefined": len(cosine) - len(usable),
    }


def _means(found: Distances) -> Record:
    return {name: _mean(getattr(found, name)) for name in ("l2", "relative", "angle")}


def _mean(values: Tensor) -> list[Any]:
    """Mean and interval; all three infinite if a value is, such as a relative distance from zero."""
    if values.isinf().any():
        return ["inf"] * 3
    found = spread(values.double().tolist())
    return [_number(value) for value in (found.mean, found.low, found.high)]


def _number(value: Tensor | float) -> float | str:
    """Four digits; ``"inf"`` where it is infinite, since JSON has no such number."""
    return "inf" if math.isinf(float(value)) else float(f"{float(value):.4g}")


def _numbers(values: Tensor) -> list[Any]:
    return [_number(value) for value in values.double().tolist()]
