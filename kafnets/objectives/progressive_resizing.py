"""Progressive resizing: any objective, on small images first."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import interpolate

from kafnets.attacks.base import Net
from kafnets.objectives.around import Around
from kafnets.objectives.base import Batch, Objective, Terms


class ProgressiveResizing(Around):
    """``objective(resize(x, s))``, where the size s grows during training.

    Wong, Rice and Kolter (2020, arXiv 2001.03994, section 5) train the first epochs on smaller images, which cost less:
    a step on images of 24 x 24 pixels has 56 % of the arithmetic of one on 32 x 32. Images are resized bilinearly, with
    antialiasing. The network must take images of every size, as those that end with a global mean do; it is evaluated
    on images of their own size.

    Args:
        objective: the objective, such as ``NFGSM()``.
        sizes: height and width in pixels from an epoch on: ``{0: 24, 6: 32}`` is 24 in the first six epochs, then 32.

    Raises:
        ValueError: if the epochs do not begin with 0 or do not ascend, or a size is below 1.

    Example:
        >>> import torch
        >>> from kafnets.objectives import NFGSM
        >>> from kafnets.threat import ThreatModel
        >>> objective = ProgressiveResizing(objective=NFGSM(), sizes={0: 4, 6: 8})
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 10))
        >>> x, y, keys = torch.rand(2, 3, 8, 8), torch.tensor([0, 2]), torch.arange(2)
        >>> [objective(net, Batch(x, y, keys, epoch, ThreatModel())).inputs.shape[-1] for epoch in (0.0, 5.9, 6.0)]
        [4, 4, 8]
    """

    headline = ("objective", "sizes")

    def __init__(self, *, objective: Objective, sizes: Mapping[int, int]) -> None:
        super().__init__(objective)
        self.sizes = dict(sizes)
        epochs = list(self.sizes)
        if not epochs or epochs[0] != 0 or epochs != sorted(epochs):
            raise ValueError(f"sizes must begin with epoch 0 and ascend, such as {{0: 24, 6: 32}}, got {self.sizes}")
        if min(self.sizes.values()) < 1:
            raise ValueError(f"sizes are heights and widths in pixels, >= 1, got {self.sizes}")

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the images of the inner objective, at the size of this epoch."""
        return super().craft(net, self._resized(batch))

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the inner objective at the size of this epoch."""
        return super().loss(net, self._resized(batch), inputs)

    def after_backward(self, batch: Batch, terms: Terms) -> None:
        """Let the inner objective read the gradients of the step."""
        super().after_backward(self._resized(batch), terms)

    def _resized(self, batch: Batch) -> Batch:
        size = [self.sizes[epoch] for epoch in self.sizes if epoch <= batch.epoch][-1]
        if tuple(batch.x.shape[-2:]) == (size, size):
            return batch
        x = interpolate(batch.x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return batch._replace(x=x.clamp(0, 1))  # rounding may leave the range by an ulp
