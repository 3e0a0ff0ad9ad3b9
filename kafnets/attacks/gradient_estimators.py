"""How an attack computes the gradient of its loss: exactly, as an average, or from differences of outputs."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from kafnets.described import Described
from kafnets.keyed_random import image_keys, normal
from kafnets.threat import ThreatModel, per_image

Net: TypeAlias = Callable[[Tensor], Tensor]
Loss: TypeAlias = Callable[..., Tensor]


class Estimate(NamedTuple):
    """The gradient of the loss at some images, of their shape, the logits ``(N, classes)`` and the loss ``(N,)``."""

    grad: Tensor
    logits: Tensor
    loss: Tensor


def gradient_at(x: Tensor, values: Tensor, *, retain_graph: bool = False, create_graph: bool = False) -> Tensor:
    """The gradient of the sum of ``values`` with respect to the images ``x``, of their shape.

    Raises:
        ValueError: if ``values`` were not computed from ``x`` with a graph.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> gradient_at(x, (x * x).sum(1))
        tensor([[2., 2.]])
    """
    grad = None
    if values.requires_grad:
        # with respect to the images alone: parameters keep their .grad, and DDP's hooks stay quiet
        keep = retain_graph or create_graph
        grad = torch.autograd.grad(values.sum(), x, retain_graph=keep, create_graph=create_graph, allow_unused=True)[0]
    if grad is None:
        raise ValueError(
            "no gradient reaches the images: the network or the loss detaches them, computes under no_grad() or "
            "outside PyTorch; give it a differentiable path from images to logits, or attack with its outputs alone: "
            "Square, or PGD with estimator=FiniteDifferences()"
        )
    return grad


def cosines(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of each pair of gradients ``(N, ...)``, and whether both are not zero, each ``(N,)``.

    Computed in float32 or better; 0 where one of the two is zero.

    Example:
        >>> cosines(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 2.0]]))
        (tensor([1., 0.]), tensor([ True, False]))
    """
    a, b = (v.float() if v.dtype.itemsize < 4 else v for v in (a, b))
    # divided by the largest entry first: squares of small gradients underflow in float32
    sizes = [v.detach().flatten(1).abs().amax(1) for v in (a, b)]
    usable = (sizes[0] > 0) & (sizes[1] > 0)
    a, b = ((v / per_image(torch.where(usable, size, 1), v)).flatten(1) for v, size in zip((a, b), sizes, strict=True))
    lengths = [torch.where(usable, v.square().sum(1), 1).sqrt() for v in (a, b)]
    return (a * b).sum(1) / (lengths[0] * lengths[1]), usable


class GradientEstimator(Described, ABC):
    """Computes the gradient of a loss at each image of a batch; injected into an attack."""

    def within(self, threat: ThreatModel) -> "GradientEstimator":
        """This estimator with those settings filled in that follow from the threat model."""
        return self

    @abstractmethod
    def __call__(
        self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor | None, step: int
    ) -> Estimate:
        """Gradient, logits and loss at some images.

        Args:
            net: images to logits.
            loss: ``loss(logits, *labels) -> (N,)``.
            x: images ``(N, ...)``.
            labels: further arguments of the loss, int64 ``(N,)`` each: the true classes, perhaps target classes.
            keys: int64 ``(N,)``, the seeds of random numbers.
            step: number of the step of the attack, from 0; each step draws other random numbers.
        """

    def logits(self, net: Net, x: Tensor) -> Tensor:
        """The logits by which images are judged, ``(N, classes)``."""
        return net(x)

    def passes(self, steps: int) -> int:
        """Forward and backward passes of the first ``steps`` steps, a backward pass counted as two."""
        return 3 * steps

    def __repr__(self) -> str:
        return self.label


class Autograd(GradientEstimator):
    """The exact gradient, by one forward and one backward pass.

    Example:
        >>> estimate = Autograd()(lambda x: x * x, lambda z, y: z.sum(1), torch.tensor([[1.0, 2.0]]), (None,), None, 0)
        >>> estimate.grad, estimate.loss
        (tensor([[2., 4.]]), tensor([5.]))
    """

    def __call__(
        self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor | None, step: int
    ) -> Estimate:
        """The gradient of the summed loss with respect to the images."""
        x = x.detach().requires_grad_(True)
        logits = net(x)
        value = loss(logits, *labels)
        return Estimate(gradient_at(x, value), logits.detach(), value.detach())


class EOT(GradientEstimator):
    """Expectation over transformation: averages for a randomised network (Athalye et al. 2018).

    Gradient, logits and loss are means over ``samples`` evaluations, and images are judged by such a mean of logits.
    The randomness is the network's own: it follows ``torch.manual_seed``, not the keys of the images.

    Args:
        samples: evaluations per step, >= 1; 20 in AutoAttack's version for randomised networks.
        of: estimator of a single evaluation; exact gradients by default.

    Raises:
        ValueError: if ``samples`` < 1.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> noisy = lambda x: x * torch.rand(()) * 2
        >>> grad = EOT(5000)(noisy, lambda z, y: z.sum(1), torch.ones(1, 1), (None,), None, 0).grad
        >>> round(grad.item(), 1)
        1.0
    """

    def __init__(self, samples: int = 20, of: GradientEstimator | None = None) -> None:
        if samples < 1:
            raise ValueError(f"samples must be >= 1, got {samples}; the default is 20")
        self.samples = samples
        self.of = of or Autograd()

    def within(self, threat: ThreatModel) -> Self:
        """With the estimator that it averages in the threat model."""
        of = self.of.within(threat)
        if of is self.of:
            return self
        bound = copy.copy(self)
        bound.of = of
        return bound

    def __call__(
        self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor | None, step: int
    ) -> Estimate:
        """Means over independent evaluations of the network."""
        total = self.of(net, loss, x, labels, keys, step * self.samples)
        for sample in range(1, self.samples):
            estimate = self.of(net, loss, x, labels, keys, step * self.samples + sample)
            total = Estimate(*(a + b for a, b in zip(total, estimate, strict=True)))
        return Estimate(*(value / self.samples for value in total))

    def logits(self, net: Net, x: Tensor) -> Tensor:
        """The mean of the logits of independent evaluations."""
        total = self.of.logits(net, x)
        for _ in range(1, self.samples):
            total = total + self.of.logits(net, x)
        return total / self.samples

    def passes(self, steps: int) -> int:
        """Those of all evaluations."""
        return self.samples * self.of.passes(steps)


class FiniteDifferences(GradientEstimator):
    """The gradient of the loss smoothed by Gaussian noise, from outputs alone, in antithetic pairs.

    ``g = mean_i (L(x + sigma u_i) - L(x - sigma u_i)) u_i / (2 sigma)``, ``u_i ~ N(0, I)``: an unbiased estimate of
    the gradient of ``E L(x + sigma u)``, which is smooth where L itself is broken into pieces, as that of k-WTA
    (Tramer, Carlini, Brendel, Madry 2020, section 5). Their attack on it is ``PGD(loss=margin, steps=100,
    step_size=0.01, random_start=False, estimator=FiniteDifferences(sigma=eps))``; a cheap form takes
    ``samples={0: 100}``, 50 steps and a step size of 0.003. Logits and loss are those at ``x``, without noise.

    Args:
        sigma: standard deviation of the noise in input units, > 0; None for the eps of the attack.
        samples: forward passes per step, an even number, by the first step that it applies to; the default is
            ``{0: 100, 20: 1000, 40: 20000}``.
        batch_size: the most images per forward pass, >= 2 (at least one pair of every image goes together). None for
            1,000, or for 100 on a CPU, where a pass of 1,000 takes twice as long per image (page faults and caches).

    Raises:
        ValueError: if a setting is out of its range, or (when called) without keys.

    Example:
        >>> keys = image_keys(torch.arange(1), 0)
        >>> estimate = FiniteDifferences(sigma=0.1, samples={0: 20000})
        >>> step = lambda z, y: (z > 0.5).float().sum(1)  # its gradient is zero, but not on average
        >>> grad = estimate(lambda x: x, step, torch.full((1, 1), 0.5), (torch.tensor([0]),), keys, 0).grad
        >>> abs(grad.item() - 0.1**-1 / (2 * torch.pi) ** 0.5) < 0.1
        True
    """

    def __init__(
        self, *, sigma: float | None = None, samples: Mapping[int, int] | None = None, batch_size: int | None = None
    ) -> None:
        self.samples = dict(samples or {0: 100, 20: 1000, 40: 20000})
        self.sigma = sigma
        self.batch_size = batch_size
        if sigma is not None and not 0 < sigma < float("inf"):
            raise ValueError(f"sigma must be > 0 and finite, got {sigma:g}; leave it out to take the eps of the attack")
        if 0 not in self.samples or any(count < 2 or count % 2 for count in self.samples.values()):
            raise ValueError(f"samples must say an even number >= 2 for step 0 and for others, got {self.samples}")
        if batch_size is not None and batch_size < 2:
            raise ValueError(f"batch_size must be >= 2, got {batch_size}; None takes what suits the device")

    def within(self, threat: ThreatModel) -> Self:
        """With the radius of the threat model as ``sigma``, unless ``sigma`` was given."""
        if self.sigma is not None or threat.eps == 0:
            return self
        bound = copy.copy(self)
        bound.sigma = threat.eps
        return bound

    def __call__(
        self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor | None, step: int
    ) -> Estimate:
        """One forward pass at the images, the others around them."""
        if self.sigma is None:
            raise ValueError("finite differences need sigma > 0: give one, or an attack with eps > 0")
        if keys is None:
            raise ValueError("finite differences draw random numbers: they need the keys of the images")
        with torch.no_grad():
            logits = net(x)
            keys, grad = image_keys(keys, step), torch.zeros_like(x)
            pairs = self._samples_at(step) // 2
            together = max(1, (self.batch_size or (1000 if x.is_cuda else 100)) // (2 * len(x)))
            for first in range(0, pairs, together):
                grad += self._sum(net, loss, x, labels, keys, self.sigma, range(first, min(first + together, pairs)))
            return Estimate(grad / (2 * self.sigma * pairs), logits, loss(logits, *labels))

    def passes(self, steps: int) -> int:
        """One at the images, and the samples of each step."""
        return sum(1 + self._samples_at(step) for step in range(steps))

    def _samples_at(self, step: int) -> int:
        return self.samples[max(first for first in self.samples if first <= step)]

    @staticmethod
    def _sum(
        net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor, sigma: float, pairs: range
    ) -> Tensor:
        """Differences times directions, added over some pairs of every image."""
        at = torch.arange(pairs.start, pairs.stop, device=keys.device).unsqueeze(1)
        noise = normal(image_keys(keys + at).flatten(), x.shape[1:]).to(x.dtype).reshape(len(pairs), *x.shape)
        around = torch.stack([x + sigma * noise, x - sigma * noise])
        repeated = (label.repeat(2 * len(pairs), *[1] * (label.dim() - 1)) for label in labels)
        above, below = loss(net(around.flatten(0, 2)), *repeated).reshape(2, len(pairs), len(x)).to(x.dtype)
        return torch.einsum("pn,pn...->n...", above - below, noise)
