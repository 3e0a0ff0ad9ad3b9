"""Attacks, curves and diagnostics that together test a robust accuracy, batch by batch."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kafnets.analysis.gradient_diagnostics import (
    answers,
    gradients,
    half_precision,
    in_training_mode,
    loss_along,
    watched,
)
from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_curves import (
    RADII,
    RESTARTS,
    STEPS,
    curve,
    nested_curve,
    radii_to_the_end,
    search_at_eps,
    search_at_restarts,
    search_at_steps,
)
from kafnets.attacks import FGSM, Attack
from kafnets.attacks.queries import ask
from kafnets.logits import check_logits, is_correct

Net: TypeAlias = Callable[[Tensor], Tensor]
ROLES = ("white", "black", "single", "noise", "transfer")
Tell: TypeAlias = Callable[[str, PerImageResults], None]
TOLERANCE = 1e-6  # relative to eps, for attacks that compute the ball in another precision


@dataclass
class Measured:
    """What a study has measured.

    Attributes:
        outcomes: the results per image, a column for every attack, point of a curve and diagnostic.
        facts: names of modules in training mode, operations in half precision, and state that was changed.
        seconds: time each part took.
        worst: for each image the first adversarial image that fooled the network, the image itself where none did.
    """

    outcomes: PerImageResults
    facts: dict[str, set[str]]
    seconds: dict[str, float]
    worst: Tensor


class RobustnessStudy:
    """Attacks by role, and the curves and diagnostics that check them.

    The worst case of an image is that over all attacks, whatever their roles; the roles decide which attacks should not
    be stronger than which. All attacks must share one norm and one eps.

    Args:
        white_box: iterative attacks along the gradient, at least one; the first decides norm and eps.
        black_box: attacks that use logits alone.
        single_step: an attack of one step.
        noise: random perturbations.
        transfer: an attack on another network, see :class:`kafnets.attacks.Transfer`.
        attack_at_eps, attack_at_steps, attack_at_restarts: from the first white-box attack, the attack of each point of
            a curve; see :mod:`kafnets.analysis.robustness_curves`.

    Raises:
        ValueError: if there is no white-box attack, eps is 0, attacks do not share eps and norm, or two are the same.

    Example:
        >>> from kafnets.activations import ReLU
        >>> from kafnets.attacks import PGD
        >>> from kafnets.backbones import KafVGG
        >>> net = KafVGG(activation=ReLU, width=4, hidden=8, image_size=8).eval()
        >>> study = RobustnessStudy(white_box=[PGD(steps=2)])
        >>> x, y, index = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), torch.arange(4)
        >>> found = study.measure(net, x, y, index=index, keys=index)
        >>> len(found.outcomes), bool((found.outcomes.worst(*ROLES) <= found.outcomes["clean"]).all())
        (4, True)
    """

    def __init__(
        self,
        *,
        white_box: Sequence[Attack],
        black_box: Sequence[Attack] = (),
        single_step: Attack | None = None,
        noise: Attack | None = None,
        transfer: Attack | None = None,
        attack_at_eps: Callable[[Attack], Callable[[float], Attack]] = search_at_eps,
        attack_at_steps: Callable[[Attack], Callable[[int], Attack]] = search_at_steps,
        attack_at_restarts: Callable[[Attack], Callable[[int], Attack]] = search_at_restarts,
    ) -> None:
        if not white_box:
            raise ValueError("white_box needs at least one attack, such as PGD(steps=50)")
        first = white_box[0]
        single_step = single_step or FGSM(eps=first.eps, alpha=1.0, random_start=False, norm=first.norm)
        optional = {"noise": noise, "transfer": transfer}
        self.attacks: dict[str, Attack] = name_attacks(
            [("white", attack) for attack in white_box]
            + [("black", attack) for attack in black_box]
            + [("single", single_step)]
            + [(role, attack) for role, attack in optional.items() if attack is not None]
        )
        check_one_ball(self.attacks.values())
        self.ball = first
        self.at_eps, self.at_steps = attack_at_eps(first), attack_at_steps(first)
        self.at_restarts = attack_at_restarts(first)

    def settings(self) -> dict[str, Any]:
        """The settings of the attacks by name, for a report."""
        return {name: attack.settings() for name, attack in self.attacks.items()}

    def passes(self) -> dict[str, int]:
        """The parts of :meth:`measure` in order, with the most passes per image that each takes, roughly.

        See :meth:`kafnets.attacks.Attack.passes`. Curves count only on the images on which they are measured.
        """
        curves = len(RADII) * self.at_eps(self.ball.eps).passes()
        curves += sum(self.at_steps(steps).passes() for steps in STEPS)
        curves += sum(self.at_restarts(restarts).passes() for restarts in RESTARTS)
        attacks = {name: attack.passes() for name, attack in self.attacks.items()}
        return {"probes": 0} | attacks | {"curves": curves}

    def measure(
        self,
        net: Net,
        x: Tensor,
        y: Tensor,
        *,
        index: Tensor,
        keys: Tensor,
        curves: Tensor | None = None,
        attacked: Net | None = None,
        tell: Tell | None = None,
    ) -> Measured:
        """Measure a batch; the network is unchanged afterwards.

        Args:
            net: images to logits, in evaluation mode.
            x: images ``(N, C, H, W)``, floating point, in [0, 1].
            y: true classes, int64 ``(N,)``.
            index: number of each image in its set, int64 ``(N,)``.
            keys: of the images, int64 ``(N,)``, from :func:`kafnets.keyed_random.image_keys`.
            curves: bool ``(N,)``, the images on which curves and the loss along an attack are measured; all by default.
            attacked: the network that attacks and curves use instead, equal to ``net`` up to rounding but faster
                (:class:`kafnets.fused.Fused`); ``net`` judges the images that they find.
            tell: called before each part, in the order of :meth:`passes`, with its name and the results so far.

        Raises:
            ValueError: as any attack does, for images, labels or networks that can't be attacked.
        """
        run = _Run(net, net if attacked is None else attacked, x, y, keys, tell)
        with watched(net, run.changed):
            with torch.no_grad():
                logits = ask(net, x)
            check_logits(logits, y)
            # under the same names, so that the report states the settings that were used
            self.attacks = {name: attack.for_classes(logits.shape[1]) for name, attack in self.attacks.items()}
            clean = is_correct(logits, y)
            run.add({"index": index, "label": y, "predicted": logits.argmax(1), "clean": clean})
            run.facts["training"] = in_training_mode(net)
            with run.timed("probes"):
                self._diagnose(run)
            for name, attack in self.attacks.items():
                with run.timed(name):
                    run.attack(name, attack, clean)
            with run.timed("curves"):
                self._curves(run, torch.ones_like(clean) if curves is None else curves)
        return Measured(PerImageResults(run.columns), run.facts | {"changed": run.changed}, run.seconds, run.worst)

    def _diagnose(self, run: "_Run") -> None:
        found = answers(run.net, run.x) | gradients(run.net, run.x, run.y, self.ball)
        run.add({f"probe/{name}": values for name, values in found.items()})
        run.facts["half"] = half_precision(run.net, run.x, run.y)

    def _curves(self, run: "_Run", chosen: Tensor) -> None:
        if not bool(chosen.any()):
            return
        net, x, y, keys = run.attacked, run.x[chosen], run.y[chosen], run.keys[chosen]
        radii = radii_to_the_end(self.ball, x)
        for name, points in (
            ("eps", nested_curve(net, x, y, keys=keys, attack_at=self.at_eps, values=radii)),
            ("steps", curve(net, x, y, keys=keys, attack_at=self.at_steps, values=STEPS)),
            ("restarts", curve(net, x, y, keys=keys, attack_at=self.at_restarts, values=RESTARTS)),
            ("loss", enumerate(loss_along(net, x, y, self.ball))),
        ):
            for value, column in points:
                run.add({f"{name}/{value!r}": column}, chosen)


def name_attacks(attacks: Iterable[tuple[str, Attack]]) -> dict[str, Attack]:
    """Each attack under ``role/name``.

    Raises:
        ValueError: if two have the same name.

    Example:
        >>> from kafnets.attacks import PGD
        >>> list(name_attacks([("white", FGSM()), ("white", PGD(steps=2))]))
        ['white/FGSM Linf eps 8/255', 'white/PGD-2-1 Linf eps 8/255']
    """
    named: dict[str, Attack] = {}
    for role, attack in attacks:
        name = f"{role}/{attack}"
        if name in named:
            raise ValueError(f"two attacks are both {name}; leave one out, or give them different settings")
        named[name] = attack
    return named


def check_one_ball(attacks: Iterable[Attack]) -> None:
    """Raise ``ValueError`` unless all attacks share norm and eps, and eps > 0."""
    balls = {attack.threat: str(attack) for attack in attacks}
    if len(balls) > 1:
        raise ValueError(f"all attacks must share one norm and one eps, got {'; '.join(balls.values())}")
    if any(threat.eps == 0 for threat in balls):
        raise ValueError("eps must be > 0: there is nothing to search in a ball of radius 0")


@dataclass
class _Run:
    """One batch, and what has been measured of it."""

    net: Net
    attacked: Net
    x: Tensor
    y: Tensor
    keys: Tensor
    tell: Tell | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, set[str]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    worst: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.worst = self.x.clone()

    def add(self, columns: dict[str, Tensor], chosen: Tensor | None = None) -> None:
        """Add columns, of all images or of the ``chosen`` ones."""
        for name, values in columns.items():
            if chosen is not None:
                every = torch.full((len(self.x),), torch.nan, dtype=torch.float64, device=self.x.device)
                every[chosen] = values.double()
                values = every
            self.columns[name] = values

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the time of the body, after saying that it begins."""
        if self.tell:
            self.tell(name, PerImageResults(self.columns))
        start = time.perf_counter()
        yield
        if self.x.is_cuda:
            torch.cuda.synchronize(self.x.device)
        self.seconds[name] = time.perf_counter() - start

    def attack(self, name: str, attack: Attack, clean: Tensor) -> None:
        """Attack the network and judge the result."""
        x_adv = attack(self.attacked, self.x, self.y, keys=self.keys)
        with torch.no_grad():
            right = is_correct(ask(self.net, x_adv), self.y)
        fooled = clean & ~right & (self.worst == self.x).flatten(1).all(1)
        self.worst[fooled] = x_adv[fooled]
        size = attack.norm.size(x_adv - self.x)
        beyond = (size > attack.eps * (1 + TOLERANCE)) | (x_adv < 0).flatten(1).any(1) | (x_adv > 1).flatten(1).any(1)
        self.add({name: clean & right, f"repaired/{name}": right & ~clean, f"outside/{name}": beyond})
