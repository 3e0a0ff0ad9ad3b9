"""The worst perturbation found so far of each image."""

import torch
from torch import Tensor

from kafnets.threat import per_image


class WorstCase:
    """Keeps a misclassified image if there was any, otherwise the one of the largest loss; of ties the first.

    Args:
        images: ``(N, ...)``, to start with; copied.
        correct: bool ``(N,)``, whether each is classified correctly.
        loss: ``(N,)``, the loss of each.

    Example:
        >>> worst = WorstCase(torch.zeros(3, 1), torch.tensor([True, True, False]), torch.zeros(3))
        >>> found, all_rows = torch.ones(3, 1), torch.arange(3)
        >>> worst.update(all_rows, found, torch.tensor([True, False, True]), torch.tensor([-1.0, -1.0, 1.0]))
        >>> worst.images.flatten(), worst.correct
        (tensor([0., 1., 0.]), tensor([ True, False, False]))
    """

    def __init__(self, images: Tensor, correct: Tensor, loss: Tensor) -> None:
        self.images, self.correct, self.loss = images.clone(), correct.clone(), loss.clone()

    def update(self, index: Tensor, images: Tensor, correct: Tensor, loss: Tensor) -> None:
        """Replace the images number ``index``, int64 ``(n,)``, where the new ones ``(n, ...)`` are worse."""
        better = torch.where(correct == self.correct[index], loss > self.loss[index], ~correct)
        self.images[index] = torch.where(per_image(better, images), images, self.images[index])
        self.loss[index] = torch.where(better, loss, self.loss[index])
        self.correct[index] &= correct

    def still_correct(self) -> Tensor:
        """The numbers of the images that are still classified correctly, int64."""
        return self.correct.nonzero().flatten()
