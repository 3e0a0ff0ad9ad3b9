"""AutoAttack: attacks whose settings are fixed, one after another."""

import copy
from functools import singledispatch
from typing import Any, ClassVar, Literal, Self

from kafnets.attacks.apgd import APGD
from kafnets.attacks.apgd_targeted import APGDT
from kafnets.attacks.base import Attack
from kafnets.attacks.fab import FAB
from kafnets.attacks.gradient_estimators import EOT
from kafnets.attacks.square import Square
from kafnets.attacks.suite import Suite
from kafnets.losses import dlr, margin
from kafnets.threat import L1, Norm, ThreatModel


@singledispatch
def _starts_and_targets(norm: Norm) -> tuple[int, int]:
    """Starts of APGD-CE and targets of APGD-T in the standard version of AutoAttack."""
    return 1, 9


@_starts_and_targets.register
def _(norm: L1) -> tuple[int, int]:
    return 5, 5


def _standard(*, norm: Norm, **settings: Any) -> dict[str, Attack]:
    settings["norm"] = norm
    starts, targets = _starts_and_targets(norm)
    return {
        "APGD-CE": APGD(restarts=starts, **settings),
        "APGD-T": APGDT(targets=targets, **settings),
        "FAB-T": FAB(**settings),
        "Square": Square(**settings),
    }


def _plus(**settings: Any) -> dict[str, Attack]:
    return {
        "APGD-CE": APGD(restarts=5, **settings),
        "APGD-DLR": APGD(restarts=5, loss=dlr, **settings),
        "FAB": FAB(targeted=False, **settings),
        "FAB again": FAB(targeted=False, restarts=4, random_start=True, **settings),
        "Square": Square(**settings),
        "APGD-T": APGDT(**settings),
        "FAB-T": FAB(**settings),
    }


def _rand(**settings: Any) -> dict[str, Attack]:
    return {
        "APGD-CE": APGD(estimator=EOT(20), **settings),
        "APGD-DLR": APGD(estimator=EOT(20), loss=dlr, **settings),
    }


_VERSIONS = {"standard": _standard, "plus": _plus, "rand": _rand}


def _without_dlr(name: str, attack: Attack) -> tuple[str, Attack]:
    """The attack with the margin in place of the DLR loss, under its new name."""
    if attack.loss is not dlr:
        return name, attack
    attack = copy.copy(attack)
    attack.loss = margin
    return name.replace("DLR", "margin"), attack


class AutoAttack(Suite):
    """AutoAttack (Croce and Hein 2020): the worst case of attacks whose settings are fixed.

    - ``"standard"``: APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5,000 queries); in L1, APGD-CE with 5
      restarts and APGD-T with 5 targets (Croce and Hein 2021);
    - ``"plus"``: APGD-CE and APGD-DLR with 5 restarts, FAB from the image and from 4 random starts, Square, APGD-T,
      FAB-T;
    - ``"rand"``, for randomised networks: APGD-CE and APGD-DLR on gradients averaged over 20 evaluations.

    APGD and FAB take 100 steps.

    With fewer than ten classes, the attacks have as many targets as there are wrong classes. With three, the targeted
    attack of APGD maximises the margin in place of the DLR loss, which needs four; with two, APGD-DLR does so as well,
    and is called APGD-margin. ``autoattack.for_classes(classes).settings()`` says what was used.

    Args:
        version: one of these.
        eps: radius of the ball in input units, a number or ``"8/255"``.
        norm: Linf, L2 or L1.
        batch_size: see :class:`Suite`.

    Raises:
        ValueError: for another version, or if a setting is out of its range.

    Example:
        >>> list(AutoAttack("standard").attacks)
        ['APGD-CE', 'APGD-T', 'FAB-T', 'Square']
        >>> print(AutoAttack("rand", eps="4/255"))
        AutoAttack-rand Linf eps 4/255
    """

    headline: ClassVar[tuple[str, ...]] = ("version",)

    def __init__(
        self,
        version: Literal["standard", "plus", "rand"] = "standard",
        *,
        eps: float | str | None = None,
        norm: Norm | None = None,
        batch_size: int | None = 250,
    ) -> None:
        if version not in _VERSIONS:
            raise ValueError(f"version must be one of {', '.join(_VERSIONS)}, got {version!r}")
        own = ThreatModel(norm, ThreatModel().eps if eps is None else eps)
        super().__init__(_VERSIONS[version](norm=own.norm, eps=own.eps), batch_size=batch_size)
        self.version = version
        self._own_eps, self._own_norm = eps, norm

    def within(self, threat: ThreatModel) -> Self:
        """This version in the threat model of a run: the norm decides the settings of its attacks."""
        ball = self._filled(threat)
        bound = copy.copy(self)
        bound.attacks = _VERSIONS[self.version](norm=ball.norm, eps=ball.eps)
        bound._set_threat(ball)
        return bound

    def for_classes(self, classes: int) -> Self:
        """This version for a network with so many classes: its numbers of targets, and the margin in place of DLR."""
        fitted = copy.copy(self)
        if classes < dlr.fewest_classes:  # type: ignore[attr-defined]
            fitted.attacks = dict(_without_dlr(name, attack) for name, attack in self.attacks.items())
        return super(AutoAttack, fitted).for_classes(classes)

    def settings(self) -> dict[str, Any]:
        """The settings for a report: names and values that JSON can store."""
        return {"version": self.version, **super().settings()}

    def __str__(self) -> str:
        return f"{self.short_label} {self.threat}"
