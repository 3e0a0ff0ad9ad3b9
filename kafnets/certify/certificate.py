"""The interface of certificates: which images no perturbation within a radius can change."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from kafnets.backbones.base import Backbone
from kafnets.certify.intervals import IntervalBounds
from kafnets.certify.linear import LinearBounds
from kafnets.certify.lipschitz import LipschitzBound, lipschitz_bound
from kafnets.described import Described, arguments_of
from kafnets.threat import L2, Linf, Norm, ThreatModel
from kafnets.threat.units import in_input_units

Certifier: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class Certificate(Described, ABC):
    """Says of images that they are classified correctly within a radius, whatever the perturbation.

    Args:
        radii: in input units, numbers or fractions such as ``"8/255"``, ascending; None for the eps of the run, whose
            norm must then be the certificate's.

    Attributes:
        norm: of the perturbations.
        failure: the probability that the certificate of an image is wrong; 0 for a proof.

    Raises:
        ValueError: if ``radii`` is empty, does not ascend, or holds a number that is no radius.
    """

    norm: ClassVar[Norm]
    failure: float = 0.0

    def __init__(self, *, radii: Sequence[float | str] | None = None) -> None:
        self.radii = None if radii is None else [in_input_units("radii", radius) for radius in radii]
        if self.radii is not None:
            if not self.radii or self.radii != sorted(set(self.radii)) or not self.radii[0] > 0:
                raise ValueError(f"radii must be numbers > 0 that ascend, got {list(radii or [])}")
            self.norm.check_eps(self.radii[-1])

    def settings(self) -> dict[str, Any]:
        """The arguments that it was built with, by name."""
        return {name: getattr(self, name) for name in arguments_of(type(self))}

    def threats(self, run: ThreatModel) -> list[ThreatModel]:
        """The threat model of each radius.

        Raises:
            ValueError: if there are no radii, and the run has another norm.
        """
        if self.radii is None and run.norm != self.norm:
            raise ValueError(
                f"{type(self).__name__} certifies {type(self.norm).__name__}, the run states {run}; give its radii"
            )
        return [ThreatModel(self.norm, eps) for eps in ([run.eps] if self.radii is None else self.radii)]

    @abstractmethod
    def of(self, net: nn.Module, radii: Sequence[float]) -> Certifier:
        """The certificate of one network as a function ``(x, y, keys) -> bool (N, len(radii))``.

        ``x`` are images ``(N, C, H, W)``, ``y`` true classes, ``keys`` one per image, for random numbers.
        """

    def answers(self, net: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
        """The classes that the certified classifier gives, int64 ``(N,)``; -1 where it gives none."""
        with torch.no_grad():
            classes: Tensor = net(x).argmax(1)
            return classes


class Intervals(Certificate):
    """Linf by :class:`~kafnets.certify.intervals.IntervalBounds`.

    Args:
        radii: see :class:`Certificate`.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> x, y = torch.tensor([[[[0.7, 0.4]]]]), torch.tensor([0])
        >>> Intervals().of(net, [0.1, 0.2])(x, y, torch.tensor([0]))
        tensor([[ True, False]])
    """

    norm = Linf()
    bounds: ClassVar[type[IntervalBounds]] = IntervalBounds

    def of(self, net: nn.Module, radii: Sequence[float]) -> Certifier:
        """See :meth:`Certificate.of`."""
        bounds = self.bounds(net)
        return lambda x, y, keys: torch.stack([bounds.certified(x, y, eps) for eps in radii], 1)


class LinearRelaxation(Intervals):
    """Linf by :class:`~kafnets.certify.linear.LinearBounds`: tighter than :class:`Intervals`, for small networks.

    Args:
        radii: see :class:`Certificate`.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> x, y = torch.tensor([[[[0.7, 0.4]]]]), torch.tensor([0])
        >>> LinearRelaxation().of(net, [0.1, 0.2])(x, y, torch.tensor([0]))
        tensor([[ True, False]])
    """

    bounds = LinearBounds


class LipschitzMargins(Certificate):
    """L2 by the margin of the logits and :func:`~kafnets.certify.lipschitz.lipschitz_bound`.

    Args:
        radii: see :class:`Certificate`.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> x, y = torch.tensor([[[[0.7, 0.4]]]]), torch.tensor([0])
        >>> LipschitzMargins().of(net, [0.2, 0.25])(x, y, torch.tensor([0]))  # the truth is 0.3 / sqrt(2)
        tensor([[ True, False]])
    """

    norm = L2()

    def of(self, net: nn.Module, radii: Sequence[float]) -> Certifier:
        """See :meth:`Certificate.of`."""
        limits = torch.tensor(radii, dtype=torch.float64)

        def certified(x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
            channels, height, width = x.shape[1:]
            if not known:
                known.append(lipschitz_bound(net, (channels, height, width)))
            with torch.no_grad():
                return known[0].radius(net(x), y)[:, None] >= limits.to(x.device)

        whole = getattr(net, "_orig_mod", net)
        known: list[LipschitzBound] = [lipschitz_bound(net)] if isinstance(whole, Backbone) else []
        return certified
