"""The threat model of a run."""

from kafnets.threat.l1 import L1
from kafnets.threat.norms import L2, Linf, Norm
from kafnets.threat.units import in_input_units, show_units

NORMS: dict[str, type[Norm]] = {"Linf": Linf, "L2": L2, "L1": L1}


def as_norm(norm: Norm | str) -> Norm:
    """The norm that has a name: ``"Linf"``, ``"L2"`` or ``"L1"``; a norm is returned as it is.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> as_norm("L2") == as_norm(L2())
        True
    """
    if isinstance(norm, Norm):
        return norm
    if not isinstance(norm, str) or norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, or a Norm such as L2(), got {norm!r}")
    return NORMS[norm]()


class ThreatModel:
    """Which perturbations an attacker may add: those of norm at most eps that keep an image in [0, 1].

    ``{delta: norm(delta) <= eps, x + delta in [0, 1]}``. A run states it once, for training,
    validation, test, noise and curves.

    Args:
        norm: :class:`Linf` (the default), :class:`L2` or :class:`L1`, or one of their names; see :func:`as_norm`.
        eps: the radius in input units, a number or ``"8/255"``, the same for every image.

    Raises:
        ValueError: if norm is no norm, or eps is not a valid radius for it.

    Example:
        >>> ThreatModel(), ThreatModel(eps="4/255") == ThreatModel(Linf(), 4 / 255)
        (ThreatModel(Linf, eps 8/255), True)
    """

    def __init__(self, norm: Norm | None = None, eps: float | str = 8 / 255) -> None:
        self.norm = Linf() if norm is None else as_norm(norm)
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
