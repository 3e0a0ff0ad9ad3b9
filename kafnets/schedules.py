"""Schedules: functions of the fractional epoch, so that a resumed run continues where it stopped.

A schedule is called as ``schedule(epoch, max_epochs)``, with ``epoch`` a real number in [0, max_epochs], and returns
the multiplier of the optimizer's learning rate, or of eps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence


class Schedule(ABC):
    """``(fractional epoch, number of epochs) -> multiplier of the optimizer's learning rate, or of eps``."""

    @abstractmethod
    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``, >= 0."""


class Constant(Schedule):
    """The full learning rate, or eps, throughout.

    Example:
        >>> Constant()(3.5, 10)
        1.0
    """

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """Return 1."""
        return 1.0


def _fraction(name: str, value: float, *, open_interval: bool = False) -> float:
    if not (0 < value < 1 if open_interval else 0 <= value <= 1):
        raise ValueError(f"{name} must lie in {'(0, 1)' if open_interval else '[0, 1]'}, got {value}")
    return value


class Triangular(Schedule):
    """One cycle: linear from ``low`` to 1 at the fraction ``peak`` of the run, then linear to ``low`` (Smith 2018).

    Args:
        low: multiplier at both ends, in [0, 1]: the thesis's (min, max) = (0.01, 1) is ``lr=1, low=0.01``.
        peak: time of the maximum, a fraction of the run in (0, 1).

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> up_down = Triangular(low=0.2)
        >>> [round(up_down(epoch, 10), 2) for epoch in (0, 2.5, 5, 10)]
        [0.2, 0.6, 1.0, 0.2]
    """

    def __init__(self, *, low: float = 0.0, peak: float = 0.5) -> None:
        self.low = _fraction("low", low)
        self.peak = _fraction("peak", peak, open_interval=True)

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``."""
        t = min(epoch / max_epochs, 1.0)
        height = t / self.peak if t < self.peak else (1 - t) / (1 - self.peak)
        return self.low + (1 - self.low) * height


class TriangularThenHalving(Schedule):
    """One triangular cycle, then a tail that starts at ``low`` and halves at regular intervals (the thesis's ResNets).

    The thesis has 80 epochs of cycle and 20 of tail, halved every 4: ``tail=0.2, every=0.04`` of the run.

    Args:
        low: multiplier at both ends of the cycle and at the start of the tail, in [0, 1].
        tail: length of the tail, a fraction of the run in (0, 1).
        every: time between two halvings, a fraction of the run in (0, 1).

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> schedule = TriangularThenHalving(low=0.1, tail=0.2, every=0.04)
        >>> [round(schedule(epoch, 100), 4) for epoch in (0, 40, 80, 83.9, 84, 99)]
        [0.1, 1.0, 0.1, 0.1, 0.05, 0.0063]
    """

    def __init__(self, *, low: float = 0.0125, tail: float = 0.2, every: float = 0.04) -> None:
        self.cycle = Triangular(low=low)
        self.low = low
        self.tail = _fraction("tail", tail, open_interval=True)
        self.every = _fraction("every", every, open_interval=True)

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``."""
        cycle = (1 - self.tail) * max_epochs
        if epoch < cycle:
            return self.cycle(epoch, cycle)
        # 1e-9, because rounding can leave the quotient just below an integer
        return self.low * 0.5 ** math.floor((epoch - cycle) / (self.every * max_epochs) + 1e-9)


class WarmUp(Schedule):
    """Linear from ``low`` to 1 at the fraction ``until`` of the run, then 1.

    Args:
        low: multiplier at the start, in [0, 1].
        until: end of the rise, a fraction of the run in (0, 1).

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> rise = WarmUp(until=0.5)
        >>> [rise(epoch, 10) for epoch in (0, 2.5, 5, 10)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, *, low: float = 0.0, until: float = 0.2) -> None:
        self.low = _fraction("low", low)
        self.until = _fraction("until", until, open_interval=True)

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``."""
        return self.low + (1 - self.low) * min(epoch / (self.until * max_epochs), 1.0)


class Cosine(Schedule):
    """Linear from 0 to 1 during ``warm_up``, then half a cosine wave down to ``low`` (Loshchilov and Hutter 2017).

    Args:
        low: multiplier at the end, in [0, 1].
        warm_up: length of the rise, a fraction of the run in [0, 1]; 0 for none.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> wave = Cosine()
        >>> [round(wave(epoch, 10), 3) for epoch in (0, 5, 10)]
        [1.0, 0.5, 0.0]
    """

    def __init__(self, *, low: float = 0.0, warm_up: float = 0.0) -> None:
        self.low = _fraction("low", low)
        self.warm_up = _fraction("warm_up", warm_up)

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``."""
        t = min(epoch / max_epochs, 1.0)
        if t < self.warm_up:
            return t / self.warm_up
        t = (t - self.warm_up) / (1 - self.warm_up) if self.warm_up < 1 else 0.0
        return self.low + (1 - self.low) * (1 + math.cos(math.pi * t)) / 2


class Piecewise(Schedule):
    """Multiplied by ``factor`` at each of the ``milestones`` (Rice, Wong, Kolter 2020, section 3).

    Args:
        milestones: fractions of the run in (0, 1), ascending.
        factor: multiplier at each, in (0, 1).

    Raises:
        ValueError: if a value is out of its range, or the milestones do not ascend.

    Example:
        >>> steps = Piecewise(milestones=[0.5, 0.75])
        >>> [round(steps(epoch, 200), 3) for epoch in (0, 99, 100, 150, 199)]
        [1.0, 1.0, 0.1, 0.01, 0.01]
    """

    def __init__(self, *, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> None:
        self.milestones = [_fraction("milestones", one, open_interval=True) for one in milestones]
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, got {list(milestones)}")
        self.factor = _fraction("factor", factor, open_interval=True)

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``."""
        # 1e-9, because rounding can leave the quotient just below a milestone
        return self.factor ** sum(epoch / max_epochs + 1e-9 >= one for one in self.milestones)


class Exponential(Schedule):
    """From ``low`` to 1 by equal factors: ``low^(1 - epoch / max_epochs)``, for a learning-rate range test.

    Args:
        low: multiplier at the start, in (0, 1).

    Raises:
        ValueError: if ``low`` is out of its range.

    Example:
        >>> rise = Exponential(low=0.01)
        >>> [round(rise(epoch, 10), 4) for epoch in (0, 5, 10)]
        [0.01, 0.1, 1.0]
    """

    def __init__(self, *, low: float = 1e-5) -> None:
        self.low = _fraction("low", low, open_interval=True)

    def __call__(self, epoch: float, max_epochs: float) -> float:
        """The multiplier at ``epoch``."""
        return self.low ** (1 - min(epoch / max_epochs, 1.0))
