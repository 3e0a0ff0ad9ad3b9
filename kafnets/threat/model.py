"""The threat model of a run."""

from kafnets.threat.norms import Linf, Norm
from kafnets.threat.units import in_input_units, show_units


class ThreatModel:
    """Which perturbations an attacker may add: those of norm at most eps that keep an image in [0, 1].

    ``{delta: norm(delta) <= eps, x + delta in [0, 1]}``. A run states it once, for training,
    validation, test, noise and curves.

    Args:
        norm: :class:`Linf` (the default), :class:`L2` or :class:`~kafnets.threat.L1`.
        eps: the radius in input units, a number or ``"8/255"``, the same for every image.

    Raises:
        ValueError: if eps is not a valid radius for the norm.

    Example:
        >>> ThreatModel(), ThreatModel(eps="4/255") == ThreatModel(Linf(), 4 / 255)
        (ThreatModel(Linf, eps 8/255), True)
    """

    def __init__(self, norm: Norm | None = None, eps: float | str = 8 / 255) -> None:
        self.norm = norm or Linf()
        self.eps = in_input_units("eps", eps)
        self.norm.check_eps(self.eps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ThreatModel) and (self.norm, self.eps) == (other.norm, other.eps)

    def __hash__(self) -> int:
        return hash((self.norm, self.eps))

    def __str__(self) -> str:
        return f"{type(self.norm).__name__} eps {show_units(self.eps)}"

    def __repr__(self) -> str:
        return f"ThreatModel({type(self.norm).__name__}, eps {show_units(self.eps)})"
