"""PGD as TRADES and MART use it in training."""

from torch import Tensor

from kafnets.attacks import PGD
from kafnets.keyed_random import normal

START = 0.001  # standard deviation of the noise that the attack starts from, in input units
STEP = 0.007 / 0.031  # length of a step, times eps: the official 0.007 at the official eps of 0.031


class NearbyStart(PGD):
    """PGD from ``x + 0.001 N(0, 1)`` with steps of ``0.007 / 0.031`` times eps, unless ``step_size`` is given.

    At the image itself the gradient of a divergence from its own prediction would be zero.
    """

    @property
    def step_size(self) -> float:
        """Length of a step, in input units."""
        return STEP * self.eps if self._own_step is None else self._own_step

    def start(self, x: Tensor, keys: Tensor) -> Tensor:
        """A point next to the image."""
        return x + START * normal(keys, x.shape[1:]).to(x.dtype)
