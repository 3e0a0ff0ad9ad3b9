"""The state of a suite of attacks, and the file that a run resumes from."""

import hashlib
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kafnets.attacks.worst_case import WorstCase
from kafnets.files import written_whole


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


def fingerprint(net: nn.Module, x: Tensor, y: Tensor, keys: Tensor, settings: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of everything that the result of a run depends on, part by part.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([0])
        >>> a, b = (fingerprint(nn.Linear(2, 2), x, y, y, {"eps": eps}) for eps in (0.1, 0.2))
        >>> [part for part in a if a[part] != b[part]]
        ['network', 'settings']
    """
    text = json.dumps(settings, sort_keys=True, default=repr)
    parts = {"images": digest(x), "labels": digest(y), "keys": digest(keys)}
    return {"network": network_digest(net), **parts, "settings": hashlib.sha256(text.encode()).hexdigest()}


def network_digest(net: nn.Module) -> str:
    """SHA-256 of a network: its modules as they print, parameters and buffers, persistent or not.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = network_digest(net)
        >>> _ = net.weight.data.add_(1)
        >>> before == network_digest(net)
        False
    """
    found = hashlib.sha256(f"{type(net).__qualname__} {net!r}".encode())
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        found.update(f"{name} {digest(value)}".encode())
    return found.hexdigest()


def digest(values: Tensor) -> str:
    """SHA-256 of a tensor: its dtype, shape and bytes."""
    described = f"{values.dtype} {tuple(values.shape)}".encode()
    raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(described + raw.tobytes()).hexdigest()


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

    def load(self, device: torch.device) -> SuiteState | None:
        """The state in the file, or None if there is no file.

        Raises:
            ValueError: if the file holds something else, or the state of another run.
        """
        if not self.path.exists():
            return None
        remedy = "delete it or name another state file"
        try:
            kept = torch.load(self.path, map_location=device, weights_only=True)
            run, worst = kept["run"], WorstCase(kept["images"], kept["correct"], kept["loss"])
            state = SuiteState(worst, kept["counts"], kept["met"])
            other = [part for part in self.run if run.get(part) != self.run[part]]
        except (
            pickle.UnpicklingError,
            OSError,
            RuntimeError,
            EOFError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(f"{self.path} is no state of a suite of attacks; {remedy}") from error
        if other:
            raise ValueError(f"{self.path} is the state of another run: its {', '.join(other)} differ; {remedy}")
        return state

    def save(self, state: SuiteState) -> None:
        """Replace the file; a kill at any moment leaves the old one or the new one."""
        kept = {"run": self.run, "counts": state.counts, "met": state.met}
        kept |= {name: getattr(state.worst, name) for name in ("images", "correct", "loss")}
        with written_whole(self.path) as part:
            torch.save(kept, part)
