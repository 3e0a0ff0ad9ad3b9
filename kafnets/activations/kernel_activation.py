"""The base class of activations that are sums over kernels: dictionary, shared parameters and bounds."""

from abc import abstractmethod

from torch import Tensor

from kafnets.activations import checks
from kafnets.activations.base import Activation
from kafnets.activations.kernel_bounds import KernelSums, Part
from kafnets.activations.kernels import Kernel

SMALLEST_BANDWIDTH, LARGEST_BANDWIDTH = 1e-18, 1e18


class KernelActivation(Activation):
    """A sum over kernels at ``num_dict`` evenly spaced points from ``-boundary`` to ``boundary``.

    Args:
        num_channels: channels of the input.
        num_dict: number of dictionary points D, >= 2.
        boundary: the dictionary's half width, from 1e-6 to 1e6, in units of x.
        groups: number of parameter sets G, a divisor of ``num_channels``: neighbouring channels share a set. None for
            one per channel; 1 for one per layer.

    Raises:
        ValueError: if one of them is out of its range.
    """

    def __init__(self, num_channels: int, *, num_dict: int, boundary: float, groups: int | None) -> None:
        super().__init__(num_channels)
        checks.count("num_dict", num_dict, 2, 20)
        checks.positive("boundary", boundary, 3.0)
        self.groups = num_channels if groups is None else groups
        if not isinstance(groups, int | None) or groups is True or self.groups < 1 or num_channels % self.groups:
            raise ValueError(
                f"groups, the number of parameter sets, must divide num_channels={num_channels}, got {groups!r}; "
                "leave it None for one per channel, or give 1 for one per layer"
            )
        self.step = 2 * boundary / (num_dict - 1)

    def bandwidth_of(self, kernel: Kernel, given: float | None = None) -> float:
        """The bandwidth of a kernel, in 1 / (units of x)^2: the given one, or that of its rule for this dictionary.

        Raises:
            ValueError: if it is not from 1e-18 to 1e18, so that its square is finite in float32 and not 0.
        """
        rule = kernel.rule(self.step)
        if given is not None:
            return checks.positive("bandwidth", given, rule, least=SMALLEST_BANDWIDTH, most=LARGEST_BANDWIDTH)
        if not SMALLEST_BANDWIDTH <= rule <= LARGEST_BANDWIDTH:
            raise ValueError(
                f"the bandwidth must be from {SMALLEST_BANDWIDTH:g} to {LARGEST_BANDWIDTH:g}, got {rule:g} by the rule "
                f"of {kernel!r} for dictionary points {self.step:g} apart; change num_dict or boundary"
            )
        return rule

    def unshared(self, sets: Tensor) -> Tensor:
        """Expand parameters ``(G, ...)`` of all sets to ``(C, ...)``, one row per channel."""
        return sets if self.groups == self.num_channels else sets.repeat_interleave(self._channels, 0)

    @staticmethod
    def check_loaded(dictionary: Tensor, bandwidth: Tensor, *, prefix: str, errors: list[str]) -> None:
        """Append to ``errors`` what is wrong with a dictionary and its bandwidths from a state dict."""
        if dictionary.is_meta or bandwidth.is_meta:
            return
        if not (dictionary.isfinite().all() and (dictionary.diff() > 0).all()):
            errors.append(f"{prefix}dictionary must be finite and increasing, got {dictionary.tolist()}")
        if not ((bandwidth > 0) & bandwidth.isfinite()).all():
            errors.append(f"{prefix}bandwidth must be > 0 and finite, got {bandwidth.tolist()}")

    @abstractmethod
    def parts(self) -> list[Part]:
        """The sums over kernels that add up to this activation."""

    def bounds(self, offset: float = 0.0) -> KernelSums:
        """Bounds on the derivatives of ``offset x + f_c(x)``: usually within 1 % of the truth, never below it."""
        return KernelSums(self.parts(), self._channels, offset)

    @property
    def sharing(self) -> str:
        """The part of the label about shared parameters: empty, or ``_Groups`` and their number."""
        return "" if self.groups == self.num_channels else f"_Groups{self.groups}"

    @property
    def _channels(self) -> int:
        return self.num_channels // self.groups
