"""Training on noisy images, for randomised smoothing."""

from torch import Tensor

from kafnets.attacks.base import Net, positive_and_finite
from kafnets.keyed_random import normal
from kafnets.objectives.base import Batch
from kafnets.objectives.clean import Clean


class GaussianAugmentation(Clean):
    """``E loss(net(x + sigma N(0, I)), y)``, one draw per image and step.

    A network that is smoothed classifies noisy images, so it should be trained on such (Cohen, Rosenfeld, Kolter 2019,
    arXiv 1902.02918, section 3.3). Noisy images are not clipped to [0, 1], as :class:`kafnets.certify.Smoothing` does
    not clip them either. The eps of the run plays no part.

    Args:
        sigma: standard deviation of the noise, in input units, > 0; best that of the smoothing.

    Raises:
        ValueError: if ``sigma`` is out of its range.

    Example:
        >>> print(GaussianAugmentation().label, GaussianAugmentation(sigma=0.5).label)
        GaussianAugmentation GaussianAugmentation(sigma=0.5)
    """

    def __init__(self, *, sigma: float = 0.25) -> None:
        super().__init__()
        self.sigma = positive_and_finite("sigma", sigma, "; the authors have 0.12, 0.25, 0.5 and 1")

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the noisy images."""
        return batch.x + self.sigma * normal(batch.keys, batch.x.shape[1:]).to(batch.x.dtype)
