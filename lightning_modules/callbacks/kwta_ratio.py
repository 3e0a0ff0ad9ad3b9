"""A schedule for the ratio of k-WTA."""

from pytorch_lightning import Callback, LightningModule, Trainer

from kafnets.activations import KWTA


class KWTARatio(Callback):
    """Lower the ratio of every k-WTA layer by ``step`` every ``every`` epochs, from ``start`` down to ``end``.

    ``ratio(epoch) = max(end, start - step * floor(epoch / every))`` (Xiao, Zhong, Zheng 2020, section 3.3; the thesis
    uses 0.30 -> 0.15 in steps of 0.01 every 2 epochs, from a converged network).

    Args:
        start: ratio of the first epochs, in (0, 1].
        end: the lowest ratio, in (0, start].
        step: decrease of the ratio, > 0.
        every: number of epochs between two decreases, >= 1.

    Raises:
        ValueError: if a value is out of its range, or (at the start of training) if the network has no k-WTA layer.

    Example:
        >>> schedule = KWTARatio(start=0.3, end=0.28, step=0.01, every=2)
        >>> [round(schedule.ratio(epoch), 2) for epoch in range(7)]
        [0.3, 0.3, 0.29, 0.29, 0.28, 0.28, 0.28]
    """

    def __init__(self, *, start: float = 0.3, end: float = 0.15, step: float = 0.01, every: int = 2) -> None:
        if not 0 < end <= start <= 1:
            raise ValueError(f"ratios must satisfy 0 < end <= start <= 1, got end={end} and start={start}")
        if step <= 0 or every < 1:
            raise ValueError(f"step must be > 0 and every >= 1, got {step} and {every}")
        self.start, self.end, self.step, self.every = start, end, step, every

    def ratio(self, epoch: int) -> float:
        """Return the ratio of an epoch; epochs are counted from 0."""
        return max(self.end, self.start - self.step * (epoch // self.every))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set and log the ratio."""
        layers = [module for module in pl_module.modules() if isinstance(module, KWTA)]
        if not layers:
            raise ValueError("KWTARatio found no k-WTA layer: pass --model.net.activation=KWTA or drop the callback")
        for layer in layers:
            layer.ratio = self.ratio(trainer.current_epoch)
        pl_module.log("kwta_ratio", self.ratio(trainer.current_epoch))
