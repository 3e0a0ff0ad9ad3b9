"""GradAlign: single-step training with aligned gradients within the ball."""

from torch import Tensor, nn

from kafnets.attacks.base import Net, positive_and_finite
from kafnets.attacks.gradient_estimators import cosines, gradient_at
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.keyed_random import image_keys
from kafnets.objectives.base import Batch, Objective, Terms


class GradAlign(Objective):
    """The loss on FGSM's images plus ``weight (1 - E cos(grad_x loss(x, y), grad_x loss(x + eta, y)))``.

    ``eta`` is drawn uniformly from the ball; FGSM starts at the image and steps by ``alpha eps``. It prevents
    catastrophic overfitting (Andriushchenko and Flammarion 2020, arXiv 2007.02617, equations 4 and 5, and their code).
    As in their code, the first gradient is a constant, the mean is over images whose two gradients are not zero, and
    the network is in the mode of the training step throughout. Unlike there, ``x + eta`` is clipped to [0, 1].

    The weight that the authors found on CIFAR-10 grows with eps, ``exp(255 eps ln(10) / 8 + ln 0.02)``: 0.063 at 4/255,
    0.2 at 8/255, 0.632 at 12/255, 2.0 at 16/255.

    ``torch.compile`` does not support the gradient of a gradient, so a compiled network is refused.

    Args:
        weight: weight of the misalignment, > 0.
        alpha: length of FGSM's step as a multiple of eps, > 0.

    Raises:
        ValueError: if a setting is out of its range, or (when called) if the network was compiled.

    Example:
        >>> print(GradAlign().label, GradAlign(weight=2.0).label)
        GradAlign GradAlign(weight=2)
    """

    def __init__(self, *, weight: float = 0.2, alpha: float = 1.0) -> None:
        super().__init__()
        self.weight = positive_and_finite("weight", weight, "; the authors use 0.2 at eps 8/255")
        self.alpha = positive_and_finite("alpha", alpha)

    @property
    def single_step(self) -> bool:
        """True."""
        return True

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return FGSM's images."""
        return self._step(batch, self._gradient(net, batch, batch.x))

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the mean loss on ``inputs`` plus the weighted misalignment."""
        return self._terms(net, batch, inputs, self._gradient(net, batch, batch.x))

    def forward(self, net: Net, batch: Batch) -> Terms:
        """Run both stages; they share the gradient at the clean images."""
        here = self._gradient(net, batch, batch.x)
        return self._terms(net, batch, self._step(batch, here), here)

    def _step(self, batch: Batch, gradient: Tensor) -> Tensor:
        ball, x = batch.threat, batch.x.detach()
        return ball.norm.project(ball.norm.step(x, gradient, self.alpha * ball.eps), x, ball.eps)

    def _terms(self, net: Net, batch: Batch, inputs: Tensor, here: Tensor) -> Terms:
        ball = batch.threat
        near = ball.norm.random_start(batch.x.detach(), ball.eps, image_keys(batch.keys, 1))
        cosine, usable = cosines(here, self._gradient(net, batch, near, create_graph=True))
        alignment = (cosine * usable).sum() / usable.sum().clamp_min(1)
        logits = ask(net, inputs)
        loss = batch.loss(logits, batch.y).mean() + self.weight * (1 - alignment)
        return Terms(loss, logits, inputs, {"gradient_alignment": alignment.detach()})

    def _gradient(self, net: Net, batch: Batch, x: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return the gradient of the summed loss, in training-step mode; running statistics do not change."""
        _refuse_compiled(net)
        with preserve_state(net, eval_mode=False):
            x = x.detach().clone().requires_grad_(True)
            return gradient_at(x, batch.loss(ask(net, x), batch.y), create_graph=create_graph)


def _refuse_compiled(net: Net) -> None:
    compiled = isinstance(net, nn.Module) and any(m._compiled_call_impl is not None for m in net.modules())
    if compiled or hasattr(net, "_orig_mod"):
        raise ValueError(
            "GradAlign differentiates a gradient, which a compiled network can't; train without compiling it"
        )
