"""AWP: any objective, minimised at weights that are moved to increase it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kafnets.attacks.base import Net, positive_and_finite
from kafnets.attacks.preserve_state import preserve_state
from kafnets.described import in_words
from kafnets.objectives.around import Around
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.objectives.over_processes import mean_over_processes
from kafnets.parameter_filters import chosen, kernels


class AWP(Around):
    """``min_w objective(w + v)`` with ``v = gamma |w| grad_w objective / |grad_w objective|`` for each tensor w.

    Adversarial weight perturbation (Wu, Xia, Wang 2020, arXiv 2004.05884, equations 7 to 10). The images are crafted at
    w; the gradient is taken at w + v and the step is applied to w, so weight decay sees w. Running statistics of batch
    norm are updated by the pass at w + v only, as in the official code. Several processes move their weights alike,
    along the mean of their gradients; of accumulated batches, each has a v of its own.

    Args:
        objective: the objective to perturb, such as ``Adversarial(attack=PGD(steps=10))`` or ``TRADES()``.
        gamma: size of the perturbation relative to each tensor, > 0. The authors use 0.01 for adversarial training and
            0.005 for TRADES.
        moved: a function of the network that returns the tensors to move. By default the kernels of convolutional and
            dense layers; :func:`~kafnets.parameter_filters.kernels_and_activations` also moves trainable activations.
        start: the fractional epoch of the first perturbation, >= 0; the authors use 10 for TRADES.

    Raises:
        ValueError: if a setting is out of its range, or (when called) if ``net`` is no module or ``moved`` returns none
            of its parameters.

    Example:
        >>> from kafnets.attacks import PGD
        >>> from kafnets.objectives import TRADES, Adversarial
        >>> AWP(objective=Adversarial(attack=PGD(steps=10))).label, AWP(objective=TRADES(), gamma=0.005).label
        ('AWP-Adversarial-PGD-10-1', 'AWP-TRADES(gamma=0.005)')
    """

    headline = ("objective",)

    def __init__(
        self,
        *,
        objective: Objective,
        gamma: float = 0.01,
        moved: Callable[[nn.Module], Iterable[Tensor]] = kernels,
        start: float = 0.0,
    ) -> None:
        super().__init__(objective)
        self.gamma = positive_and_finite("gamma", gamma, "; the authors use 0.01, and 0.005 for TRADES")
        if not start >= 0:
            raise ValueError(f"start must be an epoch >= 0, got {start:g}")
        self.moved, self.start = moved, start

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the inner objective at the moved weights."""
        if batch.epoch < self.start:
            return super().loss(net, batch, inputs)
        if not isinstance(net, nn.Module):
            raise ValueError(f"AWP moves the weights of a module, got {type(net).__name__}")
        return self.objective.loss(_Shifted(net, self._shifts(net, batch, inputs)), batch, inputs)

    def _shifts(self, net: nn.Module, batch: Batch, inputs: Tensor) -> dict[str, Tensor]:
        """Return v for each tensor that moves, by name."""
        moved = {id(tensor) for tensor in chosen(self.moved, net)}
        tensors = {name: p for name, p in net.named_parameters() if id(p) in moved and p.requires_grad}
        if not tensors:
            raise ValueError(f"moved={in_words(self.moved)} returns no parameter that is trained")
        with preserve_state(net, eval_mode=False):
            value = self.objective.loss(net, batch, inputs).loss
            # zeros where there is no gradient, so that all processes exchange the same tensors
            uphill = torch.autograd.grad(value, list(tensors.values()), materialize_grads=True)
        pairs = zip(tensors.items(), map(mean_over_processes, uphill), strict=True)
        return {name: self._shift(p.detach(), g) for (name, p), g in pairs}

    def _shift(self, weight: Tensor, gradient: Tensor) -> Tensor:
        # divided by the largest entry first: squares of small gradients underflow in float32
        largest = gradient.abs().amax()
        direction = gradient / torch.where(largest > 0, largest, 1)
        return self.gamma * weight.norm() * direction / direction.norm().clamp_min(1e-12)


class _Shifted(nn.Module):
    """A network with some parameters moved: a module, so that its buffers can be found and restored."""

    def __init__(self, net: nn.Module, shifts: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self._moved = {name: p + shifts[name] for name, p in net.named_parameters() if name in shifts}

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.net, self._moved, (x,))
