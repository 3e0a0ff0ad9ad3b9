"""Upper bounds of the Lipschitz constant of a network in L2, layer by layer."""

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kafnets.activations import Activation
from kafnets.backbones.base import Backbone, Normalize, PixelMean
from kafnets.certify.boxes import affine_of
from kafnets.certify.extremes import slopes_on_grid
from kafnets.certify.spectral import ROUNDS, SLACK, conv_norm, linear_norm
from kafnets.certify.steps import Addition, Step, check_steps, steps_of

OPEN = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)  # a batch norm or an activation after them is merged
TRAINING_ROUNDS = 5


@dataclass(frozen=True)
class LayerBound:
    """One row of a :class:`LipschitzBound`.

    Attributes:
        name: the layer's path; where batch norm and activation are merged with the layer before them, that layer's.
        kind: the classes that are merged, such as ``Conv2d+BatchNorm2d+KAF``.
        step: number of the last of its steps.
        linear: the bound of its linear part, batch norm included; 1 if it has none.
        slope: the largest slope of its activation over all channels; 1 if it has none.
        gain: the bound of the whole: at most ``linear * slope``. Of an addition, the bound of the sum over the larger
            of its terms.
        upper: the bound of the network from the images up to here.
    """

    name: str
    kind: str
    step: int
    linear: float
    slope: float
    gain: float
    upper: float


@dataclass(frozen=True)
class LipschitzBound:
    """An upper bound of ``|f(a) - f(b)| / |a - b|`` in L2 over all images a and b.

    Attributes:
        total: of all logits.
        pairs: ``(classes, classes)``, float64: of the difference of two logits; at most ``sqrt(2) total``.
        layers: the bound of each layer, in order.
    """

    total: float
    pairs: Tensor
    layers: list[LayerBound]

    def __float__(self) -> float:
        """The bound of all logits."""
        return self.total

    def radius(self, logits: Tensor, y: Tensor) -> Tensor:
        """The L2 radius within which no image is misclassified, float64 ``(N,)``; 0 where the image itself is.

        ``min_j (z_y - z_j) / pairs[y, j]`` (Tsuzuku, Sato, Sugiyama 2018, arXiv 1802.04034, proposition 1).

        Args:
            logits: ``(N, classes)``, of the clean images.
            y: true classes, int64 ``(N,)``.
        """
        logits = logits.detach().double()
        own = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
        gap = logits.gather(1, y[:, None]) - logits
        size = logits.abs().amax(1, keepdim=True)
        room = (gap - 1e-5 * size) / self.pairs.to(gap)[y]  # for the rounding errors of float32
        return room.masked_fill(own, torch.inf).nan_to_num(nan=0.0).amin(1).clamp_min(0)


@dataclass(frozen=True)
class Group:
    """Neighbouring steps whose bound is taken together: a layer, the batch norms after it, and an activation.

    Attributes:
        steps: the layers.
        number: of the last of them.
    """

    steps: tuple[Step, ...]
    number: int

    @property
    def closed(self) -> bool:
        """Whether nothing can be merged any more."""
        return isinstance(self.steps[-1].module, Activation) or not isinstance(self.steps[0].module, OPEN)


def groups_of(steps: list[Step]) -> list[Group]:
    """The steps in groups, in order."""
    readers = Counter(number for step in steps for number in step.inputs)
    groups: list[Group] = []
    for number, step in enumerate(steps):
        last = groups[-1] if groups else None
        follows = isinstance(step.module, (nn.BatchNorm1d, nn.BatchNorm2d, Activation))
        if last and follows and not last.closed and step.inputs == (number,) and readers[number] == 1:
            groups[-1] = Group((*last.steps, step), number)
        else:
            groups.append(Group((step,), number))
    return groups


class LipschitzRules:
    """How the bound of a network is made of those of its layers; with a graph to the parameters.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.
        shape: of one image, ``(C, H, W)``; None for that of a backbone.
        certain: False takes slopes on a coarse grid and fewer rounds: to train with.

    Raises:
        ValueError: if there is no sound bound for a part of the network, or ``shape`` is needed.
    """

    def __init__(self, net: Any, shape: tuple[int, int, int] | None = None, *, certain: bool) -> None:
        self.net = getattr(net, "_orig_mod", net)
        self.steps, self.certain = steps_of(self.net), certain
        self.groups, self.rounds = groups_of(self.steps), ROUNDS if certain else TRAINING_ROUNDS
        if shape is None:
            if not isinstance(self.net, Backbone):
                raise ValueError(f"give the shape (C, H, W) of the images that {type(self.net).__name__} takes")
            shape = (self.net.in_channels, self.net.image_size, self.net.image_size)
        self.shapes = self._shapes(shape)

    @torch.no_grad()
    def _shapes(self, shape: tuple[int, int, int]) -> list[torch.Size]:
        """The shape of every value for one image."""
        like = next(self.net.parameters())
        values = [torch.zeros(1, *shape, dtype=like.dtype, device=like.device)]
        for step in self.steps:
            known = nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, Activation  # keep the shape, and may change their state
            reads = [values[i] for i in step.inputs]
            values.append(reads[0] if isinstance(step.module, known) else step.module.forward(*reads))
        return [value.shape for value in values]

    def bounds(self) -> Iterator[tuple[Group, Tensor, Tensor]]:
        """Each group with its own bound and that of the network up to it, both scalars."""
        upper = {0: torch.ones((), dtype=torch.float64)}
        for group in self.groups:
            first = group.steps[0]
            reads = [upper[i] for i in first.inputs]
            if isinstance(first.module, Addition):
                self._check_addition(first)
                upper[group.number + 1] = reads[0] + reads[1]
                gain = upper[group.number + 1] / torch.maximum(*reads)
            else:
                gain = self.gain(group)
                upper[group.number + 1] = reads[0] * gain
            yield group, gain, upper[group.number + 1]

    def _check_addition(self, step: Step) -> None:
        shapes = [tuple(self.shapes[i][1:]) for i in step.inputs]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"no Lipschitz bound is known for a sum that repeats one of its terms, as {step.name} does, which adds "
                f"values of the shapes {shapes[0]} and {shapes[1]}"
            )

    def gain(self, group: Group, *, slopes: bool = True) -> Tensor:
        """The bound of a group; ``slopes=False`` leaves the activation out."""
        scale: Tensor | None = None
        for step in group.steps:
            factor = self._factor(step.module, slopes)
            if factor is not None:
                scale = factor if scale is None else scale * factor
        if scale is not None and not bool(scale.isfinite().all()):
            return torch.full((), torch.inf, dtype=scale.dtype, device=scale.device)
        return self._norm(group.steps[0], scale)

    def _factor(self, module: nn.Module, slopes: bool) -> Tensor | None:
        """What a layer multiplies each channel by at most, ``(C,)``; None for other layers."""
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            return affine_of(module)[0].abs()
        if isinstance(module, Activation) and slopes:
            return self.slope(module)
        return None

    def slope(self, activation: Activation) -> Tensor:
        """The largest slope of each channel, ``(C,)``."""
        if not self.certain:
            return slopes_on_grid(activation, next(self.net.parameters()).detach())
        try:
            return activation.lipschitz()
        except (NotImplementedError, TypeError):
            raise ValueError(f"no Lipschitz bound of {activation.label} is known; take another activation") from None

    def _norm(self, step: Step, scale: Tensor | None) -> Tensor:
        """The spectral norm of a linear layer whose output is multiplied by a scale per channel."""
        module, shape = step.module, self.shapes[step.inputs[0]]
        one = torch.ones((), dtype=torch.float64)
        if isinstance(module, nn.Conv2d):
            weight = module.weight if scale is None else module.weight * scale.to(module.weight)[:, None, None, None]
            return conv_norm(module, weight, shape[2:], self.rounds)
        if isinstance(module, nn.Linear):
            if len(shape) != 2:  # channels, which have slopes and scales, are not its features then
                raise ValueError(
                    f"no Lipschitz bound is known for the dense layer {step.name} of values {tuple(shape[1:])} per "
                    "image; put nn.Flatten before it"
                )
            weight = module.weight if scale is None else module.weight * scale.to(module.weight)[:, None]
            return linear_norm(weight, self.rounds)
        if isinstance(module, Normalize):
            return (1 / module.std).amax()
        if isinstance(module, PixelMean):
            return one / math.sqrt(shape[2] * shape[3])
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            return one * _pooling_norm(module)
        return one if scale is None else scale.amax()


def _pooling_norm(pool: nn.MaxPool2d | nn.AvgPool2d) -> float:
    """Each pixel lies in at most ``ceil(k / s)`` windows along an axis.

    A maximum over windows that do not overlap has the norm 1, a mean over k pixels 1 / sqrt(k).
    """
    pairs = [(value, value) if isinstance(value, int) else tuple(value) for value in (pool.kernel_size, pool.stride)]
    overlap = math.prod(math.ceil(k / s) for k, s in zip(*pairs, strict=True))
    if isinstance(pool, nn.MaxPool2d):
        if pool.dilation not in (1, (1, 1)):
            raise ValueError(f"no Lipschitz bound is known for max-pooling with dilation={pool.dilation}")
        return math.sqrt(overlap)
    if pool.divisor_override or not pool.count_include_pad or pool.ceil_mode:
        raise ValueError("no Lipschitz bound is known for a mean whose windows have different divisors")
    return math.sqrt(overlap / math.prod(pairs[0]))


def lipschitz_bound(net: Any, shape: tuple[int, int, int] | None = None) -> LipschitzBound:
    """An upper bound of the Lipschitz constant of a network in evaluation mode, from L2 of images to L2 of logits.

    The bound of a chain is the product of those of its layers, of a sum the sum of both. Convolutions and dense layers
    are bounded together with the batch norm and the activation after them: where channel c has at most the slope
    ``s_c``, by the spectral norm of the kernel with row c times ``s_c``. Computed in float64 with relative slack above
    its rounding errors: never below the constant of the network as a function of real numbers with the stored weights,
    except that the even dictionary of a KAF is taken as exactly even, as the engines do.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.
        shape: of one image, ``(C, H, W)``; None for that of a backbone.

    Raises:
        ValueError: if there is no sound bound for a part of the network, or ``shape`` is needed.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> found = lipschitz_bound(net, (1, 1, 2))
        >>> round(found.total, 2), round(found.pairs[0, 1].item(), 2)
        (4.0, 5.0)
    """
    with torch.inference_mode(False), torch.no_grad():
        twin = copy.deepcopy(getattr(net, "_orig_mod", net)).double().cpu().eval()
        rules = LipschitzRules(twin, shape, certain=True)
        check_steps(twin, rules.steps, torch.linspace(0, 1, rules.shapes[0].numel()).double().view(rules.shapes[0]))
        rows, before, total = [], torch.ones(()).double(), torch.ones(()).double()
        for group, gain, upper in rules.bounds():
            rows.append(_row(rules, group, float(gain), float(upper) * SLACK))
            before, total = total, upper * SLACK
        return LipschitzBound(float(total), pair_bounds(rules, before, total).double(), rows)


def pair_bounds(rules: LipschitzRules, before: Tensor, total: Tensor) -> Tensor:
    """Bounds of differences of two logits, ``(classes, classes)``, from those without the last group and with it."""
    classes, last = rules.shapes[-1][1], rules.groups[-1].steps[0]
    limit = (2**0.5 * total).to(next(rules.net.parameters()).dtype).expand(classes, classes)
    if len(rules.groups[-1].steps) > 1 or type(last.module) is not nn.Linear:
        return limit
    if last.inputs != (len(rules.steps) - 1,):
        return limit
    weight = last.module.weight
    # a difference of two equal rows is 0, where the norm has no gradient
    size = ((weight[:, None] - weight[None]).square().sum(2) + torch.finfo(weight.dtype).tiny).sqrt()
    return torch.minimum(size * before.to(size.dtype) * SLACK, limit)


def _row(rules: LipschitzRules, group: Group, gain: float, upper: float) -> LayerBound:
    head, last = group.steps[0], group.steps[-1].module
    slope = float(rules.slope(last).amax()) if isinstance(last, Activation) else 1.0
    linear = 1.0 if isinstance(head.module, Addition) else float(rules.gain(group, slopes=False))
    kind = "+".join(
        s.module.label if isinstance(s.module, Activation) else type(s.module).__name__ for s in group.steps
    )
    return LayerBound(head.name, kind, group.number, linear, slope, gain, upper)
