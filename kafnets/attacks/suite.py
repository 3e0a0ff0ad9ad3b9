"""The ordered worst case of several attacks."""

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from kafnets.attacks.base import Attack, Net, at_least_one, check_classes, check_images
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import QueriedNet
from kafnets.attacks.suite_state import StateFile, SuiteState, fingerprint
from kafnets.attacks.worst_case import WorstCase
from kafnets.keyed_random import image_keys, keys_for
from kafnets.threat import ThreatModel

# called with the state whenever it changes, and with the numbers of the images that were just attacked, if any
_Watch: TypeAlias = Callable[[SuiteState, Tensor | None], None]


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found.

    Attributes:
        images: the worst perturbation of each image, ``(N, ...)``.
        robust: bool ``(N,)``, which images are classified correctly, without an attack and after all of them.
        counts: the number of images still classified correctly after each attack, by name and in order; ``"clean"``
            comes first.
    """

    images: Tensor
    robust: Tensor
    counts: dict[str, int]


@dataclass(frozen=True)
class Progress:
    """The progress of a suite.

    Attributes:
        attack: the name of the present attack.
        number: its number, from 1.
        attacks: the number of attacks.
        waiting: the number of images that are still classified correctly and that this attack has yet to try.
        robust: the number of images that are still classified correctly.
        images: the number of images.
        seconds_left: an estimate at the pace so far, as if no further image were fooled.
    """

    attack: str
    number: int
    attacks: int
    waiting: int
    robust: int
    images: int
    seconds_left: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return (
            f"{self.attack} ({self.number}/{self.attacks}): {self.robust} of {self.images} robust so far, "
            f"{self.waiting} still to attack, about {minutes}:{seconds:02d} min left"
        )


class Suite(Attack):
    """Attacks in order, each on the images that are still classified correctly; the worst case of each image.

    The result for an image depends on its key alone: not on the batch, the order or the number of processes. So the
    images may be divided among ranks, and their results together are those of one process.

    Args:
        attacks: by name, in order, all with the same eps and norm.
        batch_size: images attacked together, >= 1; None for as many as fit: all of them, halved whenever the device
            is out of memory.

    Raises:
        ValueError: if there is no attack, if they differ in eps or norm, or if ``batch_size`` < 1.

    Example:
        >>> from kafnets.attacks import APGD
        >>> x, y = torch.tensor([[0.6, 0.0], [0.9, 0.0]]), torch.tensor([0, 0])
        >>> suite = Suite({"short": APGD(eps=0.2, steps=2), "long": APGD(eps=0.2, steps=50)})
        >>> suite.evaluate(lambda x: torch.stack([x[:, 0] - 0.5, 0 * x[:, 0]], 1), x, y).counts
        {'clean': 2, 'short': 1, 'long': 1}
    """

    def __init__(self, attacks: Mapping[str, Attack], *, batch_size: int | None = 250) -> None:
        if not attacks:
            raise ValueError("a suite needs at least one attack, got none")
        first = next(iter(attacks.values()))
        super().__init__(eps=first.eps, norm=first.norm, estimator=first.estimator)
        self.attacks = dict(attacks)
        self._check_one_ball()
        self.batch_size = batch_size if batch_size is None else at_least_one("batch_size", batch_size)

    def within(self, threat: ThreatModel) -> Self:
        """This suite with each of its attacks in the threat model of a run."""
        bound = copy.copy(self)
        bound.attacks = {name: attack.within(threat) for name, attack in self.attacks.items()}
        bound._set_threat(next(iter(bound.attacks.values())).threat)
        bound._check_one_ball()
        return bound

    def for_classes(self, classes: int) -> Self:
        """This suite with each of its attacks for a network with so many classes."""
        fitted = copy.copy(self)
        fitted.attacks = {name: attack.for_classes(classes) for name, attack in self.attacks.items()}
        return fitted

    def _check_one_ball(self) -> None:
        for name, attack in self.attacks.items():
            if attack.threat != self.threat:
                raise ValueError(
                    f"the attacks of a suite must share eps and norm ({self.threat}), but {name} is {attack}"
                )

    def evaluate(
        self,
        net: Net,
        x: Tensor,
        y: Tensor,
        *,
        keys: Tensor | None = None,
        state_file: str | os.PathLike[str] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> SuiteResult:
        """Attack images, and count those that are still classified correctly after each attack.

        Args:
            net, x, y: as when called.
            keys: int64 ``(N,)``; by default those of images number 0, 1, ... with seed 0.
            state_file: written after each batch; if it exists, the run continues from it. ``net`` must be a module;
                it, the attacks and the images identify the run (:func:`~kafnets.attacks.identity.identity`).
            progress: called after each batch.

        Raises:
            ValueError: as when called; if an attack needs more classes; if ``state_file`` is not a state of this run or
                damaged (it is left as it was); or if the network or an attack can't be identified.
            FileNotFoundError: if its folder does not exist.
        """
        check_images(x)
        check_classes(x, y)
        keys = image_keys(torch.arange(len(x), device=x.device), 0) if keys is None else keys_for(x, keys)
        kept = None if state_file is None else StateFile(state_file, self._fingerprint(net, x, y, keys))

        with preserve_state(net, eval_mode=True):
            x, y, keys = x.detach().clone(), y.clone(), keys.clone()  # inference tensors can't be differentiated
            fitted = self._fitted(net, x, y)
            clock = _Clock(fitted.attacks, progress or (lambda _: None))

            def watch(state: SuiteState, rows: Tensor | None) -> None:
                if kept:
                    kept.save(state)
                if rows is not None:
                    clock.report(state, rows)

            state = (kept.load(x, self.threat, len(fitted.attacks)) if kept else None) or fitted._begin(net, x, y)
            fitted._search(net, x, y, keys, state, watch)
        counts = dict(zip(["clean", *fitted.attacks], state.counts, strict=True))
        return SuiteResult(state.worst.images, state.worst.correct, counts)

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """All attacks, once; whatever ``early_stop`` is, an image leaves the search once it is misclassified."""
        net = net.net if isinstance(net, QueriedNet) else net  # each attack wraps the network itself
        fitted = self._fitted(net, x, y)
        state = fitted._begin(net, x, y)
        fitted._search(net, x, y, keys, state, lambda state, rows: None)
        return state.worst.images

    def passes(self) -> int:
        """Those of all attacks."""
        return sum(attack.passes() for attack in self.attacks.values())

    def settings(self) -> dict[str, Any]:
        """The settings for a report: names and values that JSON can store."""
        attacks = {name: attack.settings() for name, attack in self.attacks.items()}
        ball = {"norm": type(self.norm).__name__, "eps": self.eps}
        return {"attack": type(self).__name__, **ball, "attacks": attacks}

    def __str__(self) -> str:
        return f"{self.short_label}({', '.join(self.attacks)}) {self.threat}"

    def _fingerprint(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> dict[str, str]:
        if not isinstance(net, nn.Module):
            name = getattr(net, "__name__", type(net).__name__)
            raise ValueError(f"a state file needs a torch.nn.Module, whose parameters tell runs apart, got {name}")
        return fingerprint(net, x, y, keys, self.attacks)

    def _fitted(self, net: Net, x: Tensor, y: Tensor) -> Self:
        return self.for_classes(self._answers(QueriedNet(net, y), x[:1]).shape[1]) if len(x) else self

    def _begin(self, net: Net, x: Tensor, y: Tensor) -> SuiteState:
        if len(x) == 0:
            return SuiteState(WorstCase(x, y > 0, y.to(x.dtype)), [0], y > 0)
        net = QueriedNet(net, y)
        judged: list[tuple[Tensor, Tensor]] = []
        all_rows = torch.arange(len(x), device=x.device)
        self._in_batches(all_rows, lambda rows: judged.append(self._judge(net, x[rows], y[rows])))
        correct, loss = (torch.cat(parts) for parts in zip(*judged, strict=True))
        return SuiteState(WorstCase(x, correct, loss), [int(correct.sum())], torch.zeros_like(correct))

    def _search(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, state: SuiteState, watch: _Watch) -> None:
        watch(state, None)
        for attack in list(self.attacks.values())[state.stage :]:
            self._in_batches(state.left(), partial(self._attack_some, attack, net, x, y, keys, state, watch))
            state.advance()
            watch(state, None)

    def _attack_some(
        self,
        attack: Attack,
        net: Net,
        x: Tensor,
        y: Tensor,
        keys: Tensor,
        state: SuiteState,
        watch: _Watch,
        rows: Tensor,
    ) -> None:
        found = attack(net, x[rows], y[rows], keys=image_keys(keys[rows], state.stage))
        state.worst.update(rows, found, *self._judge(QueriedNet(net, y[rows]), found, y[rows]))
        state.met[rows] = True
        watch(state, rows)

    def _in_batches(self, rows: Tensor, work: Callable[[Tensor], None]) -> None:
        """Call ``work`` on batches of rows, as large as ``batch_size`` or memory allows."""
        size = self.batch_size or max(len(rows), 1)
        while len(rows):
            try:
                work(rows[:size])
            except torch.OutOfMemoryError:
                if self.batch_size is not None or size == 1:
                    raise
                size = -(-min(size, len(rows)) // 2)
            else:
                rows = rows[size:]


class _Clock:
    """Reports the progress, and the time that remains at the pace so far."""

    def __init__(self, attacks: Mapping[str, Attack], progress: Callable[[Progress], None]) -> None:
        self.names, self.passes = list(attacks), [attack.passes() for attack in attacks.values()]
        self.progress, self.started, self.done = progress, time.monotonic(), 0

    def report(self, state: SuiteState, rows: Tensor) -> None:
        robust, waiting = int(state.worst.correct.sum()), len(state.left())
        # images that were fooled took fewer passes, and are not counted
        self.done += self.passes[state.stage] * max(int(state.worst.correct[rows].sum()), 1)
        left = waiting * self.passes[state.stage] + robust * sum(self.passes[state.stage + 1 :])
        self.progress(
            Progress(
                attack=self.names[state.stage],
                number=state.stage + 1,
                attacks=len(self.names),
                waiting=waiting,
                robust=robust,
                images=len(state.met),
                seconds_left=left * (time.monotonic() - self.started) / self.done,
            )
        )
