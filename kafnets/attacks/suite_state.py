"""The state of a suite of attacks, and the file that a run resumes from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kafnets.attacks.identity import digest, identity
from kafnets.attacks.worst_case import WorstCase
from kafnets.files import load_tensors, written_whole
from kafnets.threat import ThreatModel


@dataclass
class SuiteState:
    """What a suite has found.

    Attributes:
        worst: the worst perturbations so far.
        counts: the number of images classified correctly without an attack, and after each attack that is complete.
        met: bool ``(N,)``, which images the present attack has tried.
    """

    worst: WorstCase
    counts: list[int]
    met: Tensor

    @property
    def stage(self) -> int:
        """The number of the present attack, from 0."""
        return len(self.counts) - 1

    def left(self) -> Tensor:
        """The numbers, int64, of images that are still classified correctly and that this attack has yet to try."""
        return (self.worst.correct & ~self.met).nonzero().flatten()

    def advance(self) -> None:
        """Count the images that are still classified correctly, and go on to the next attack."""
        self.counts.append(int(self.worst.correct.sum()))
        self.met.zero_()


def fingerprint(net: nn.Module, x: Tensor, y: Tensor, keys: Tensor, attacks: Mapping[str, Any]) -> dict[str, str]:
    """Everything that the result of a run depends on, part by part.

    Raises:
        ValueError: if a part of the network or of an attack has no :func:`~kafnets.attacks.identity.identity`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([0])
        >>> a, b = (fingerprint(nn.Linear(2, 2, bias=False), x, y, y, {"eps": eps}) for eps in (0.1, 0.2))
        >>> [part for part in a if a[part] != b[part]]
        ['network.weight', 'attacks.eps']
    """
    parts = {"images": digest(x), "labels": digest(y), "keys": digest(keys)}
    return parts | identity("network", net) | identity("attacks", dict(attacks))


class StateFile:
    """A file that is either absent or holds a complete state of the run with this fingerprint.

    Args:
        path: in a folder that exists.
        run: from :func:`fingerprint`.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str], run: dict[str, str]) -> None:
        self.path, self.run = Path(path), run
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {self.path.parent} for the state file {self.path.name}")

    def load(self, x: Tensor, threat: ThreatModel, attacks: int) -> SuiteState | None:
        """The state in the file, or None if there is no file.

        Args:
            x: the images without perturbations, ``(N, ...)``.
            threat: the ball that holds the perturbations.
            attacks: the number of attacks.

        Raises:
            ValueError: if the file holds something else, is damaged, or is the state of another run.
        """
        if not self.path.exists():
            return None
        remedy = "delete it or name another state file"
        try:
            kept = load_tensors(self.path, x.device)
            run, worst = dict(kept["run"]), WorstCase(kept["images"], kept["correct"], kept["loss"])
            state = SuiteState(worst, kept["counts"], kept["met"])
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path} is no state of a suite of attacks; {remedy}") from error
        other = [part for part in [*self.run, *run] if run.get(part) != self.run.get(part)]
        if other:
            more = f" and {len(set(other)) - 3} more" if len(set(other)) > 3 else ""
            first = ", ".join(list(dict.fromkeys(other))[:3])
            raise ValueError(f"{self.path} is the state of another run: its {first}{more} differ; {remedy}")
        if problem := _problem(state, x, threat, attacks):
            raise ValueError(f"{self.path} is damaged: {problem}; {remedy}")
        return state

    def save(self, state: SuiteState) -> None:
        """Replace the file; a kill at any moment leaves the old one or the new one."""
        kept = {"run": self.run, "counts": state.counts, "met": state.met}
        kept |= {name: getattr(state.worst, name) for name in ("images", "correct", "loss")}
        with written_whole(self.path) as part:
            torch.save(kept, part)


def _problem(state: SuiteState, x: Tensor, threat: ThreatModel, attacks: int) -> str | None:
    """What no run can have written, or None."""
    worst, counts, size = state.worst, state.counts, x.shape[:1]
    for name, values, like in (
        ("images", worst.images, x),
        ("correct", worst.correct, torch.empty(size, dtype=torch.bool)),
        ("met", state.met, torch.empty(size, dtype=torch.bool)),
    ):
        if (values.dtype, values.shape) != (like.dtype, like.shape):
            expected = f"{like.dtype} {tuple(like.shape)}"
            return f"{name} must be {expected}, got {values.dtype} {tuple(values.shape)}"
    if worst.loss.shape != size or not worst.loss.is_floating_point():
        return f"loss must be {len(x)} floating point numbers, got {worst.loss.dtype} {tuple(worst.loss.shape)}"
    delta = worst.images.double() - x.double()
    rounding = threat.norm.size(torch.full_like(delta, torch.finfo(x.dtype).eps))
    inside = (threat.norm.size(delta) <= threat.eps + rounding) & _in_box(worst.images)  # false for NaN
    if not bool(inside.all()):
        return f"{int((~inside).sum())} of its {len(x)} images lie outside the ball {threat} or outside [0, 1]"
    return _problem_of_counts(counts, int(worst.correct.sum()), len(x), attacks)


def _in_box(images: Tensor) -> Tensor:
    return ((images >= 0) & (images <= 1)).flatten(1).all(1)


def _problem_of_counts(counts: Any, right: int, images: int, attacks: int) -> str | None:
    whole = isinstance(counts, list) and all(type(count) is int for count in counts)
    if not whole or not 1 <= len(counts) <= attacks + 1:
        return f"counts must be 1 to {attacks + 1} integers, got {counts!r}"
    if any(few > many for many, few in pairwise([images, *counts, right, 0])):
        return f"counts must fall from {images} images or fewer to the {right} that are still correct, got {counts}"
    return None
