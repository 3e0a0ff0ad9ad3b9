"""Training on adversarial images."""

from typing import ClassVar

from torch import Tensor

from kafnets.attacks import FGSM, Attack
from kafnets.attacks.base import Net
from kafnets.attacks.queries import ask
from kafnets.objectives.base import Batch, Objective, Terms


class Adversarial(Objective):
    """The mean loss on attacked images: ``min_w E max_{delta in ball} loss(net_w(x + delta), y)``.

    With :class:`~kafnets.attacks.FGSM` it is fast adversarial training (Wong, Rice, Kolter 2020, algorithm 3), with
    :class:`~kafnets.attacks.PGD` that of Madry et al. (2018, section 2.1).

    Args:
        attack: the attack, in the threat model of the run unless it states its own eps or norm. It is used through
            :meth:`~kafnets.attacks.Attack.craft`: one start per image. It maximises a loss of its own, the
            cross-entropy by default; the weights minimise the loss of the run.
        eval_mode: how batch norm and dropout behave while the attack looks for the images. False: as in the training
            step (batch statistics, dropout), as Madry et al., Wong et al. and Rice et al. do. True: in evaluation
            mode (running statistics, no dropout), as Pang et al. (2021, "Bag of tricks", section 3) prefer. The
            attack never updates running statistics.
        stop_when_fooled: True leaves an image at the first iterate that is misclassified, so that training sees the
            least perturbed of the misclassified images (friendly adversarial training, Zhang et al. 2020, algorithm 1
            with tau = 0). It needs ``eval_mode=True``, because images that leave the batch change its statistics.
            False: every image goes through every step.

    Raises:
        ValueError: if the attack has restarts, or ``stop_when_fooled`` is set without ``eval_mode``.

    Example:
        >>> from kafnets.attacks import PGD
        >>> print(Adversarial(attack=PGD(steps=7)).label, "/", Adversarial(eval_mode=True).label)
        Adversarial-PGD-7-1 / Adversarial-FGSM(eval_mode=True)
    """

    headline: ClassVar[tuple[str, ...]] = ("attack",)

    def __init__(
        self, *, attack: Attack | None = None, eval_mode: bool = False, stop_when_fooled: bool = False
    ) -> None:
        super().__init__()
        self.attack = attack or FGSM()
        if self.attack.restarts > 1:
            raise ValueError(
                f"training takes one start per image, got restarts={self.attack.restarts} in {self.attack}"
            )
        if stop_when_fooled and not eval_mode:
            raise ValueError(
                "stop_when_fooled=True needs eval_mode=True: images that leave the batch change its statistics"
            )
        self.eval_mode, self.stop_when_fooled = eval_mode, stop_when_fooled

    @property
    def single_step(self) -> bool:
        """Whether the attack has one step."""
        return getattr(self.attack, "steps", None) == 1

    @property
    def short_label(self) -> str:
        """Class and attack, unless the class decides the attack; norm and eps are part of the labels of the run."""
        if "attack" not in self.headline:
            return super().short_label
        own = self.attack.other_settings()
        return f"{type(self).__name__}-{self.attack.short_label}" + (f"[{', '.join(own)}]" if own else "")

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the attacked images."""
        attack = self.attack.within(batch.threat)
        return attack.craft(
            net, batch.x, batch.y, keys=batch.keys, eval_mode=self.eval_mode, stop_when_fooled=self.stop_when_fooled
        )

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the mean loss on ``inputs``."""
        logits = ask(net, inputs)
        return Terms(batch.loss(logits, batch.y).mean(), logits, inputs, {})
