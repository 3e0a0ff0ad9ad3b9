"""The checkpoints of an inspection, read and checked before any work."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kafnets.activations import Activation
from kafnets.analysis.activation_drift import known_starts
from kafnets.analysis.activation_layers import activation_layers
from kafnets.attacks.identity import identity_digest
from kafnets.backbones import Backbone
from kafnets.objectives import Objective
from kafnets.threat import ThreatModel
from lightning_modules.command_line.run_folder import find_checkpoint
from lightning_modules.export.measured import measured
from lightning_modules.files import sha256
from lightning_modules.load_classifier import build, load_with_settings
from lightning_modules.read_report import read_report


@dataclass(frozen=True)
class Inspected:
    """A trained network with what its checkpoint says about it.

    Attributes:
        path: of the checkpoint.
        net: the network, in evaluation mode.
        settings: ``model`` and ``data``, in flat form.
        trained_on: the identity of its training images; empty if the checkpoint has none.
        axes: ``network``, ``activation`` and ``objective``.
        threat: the threat model of its run.
    """

    path: Path
    net: Backbone
    settings: dict[str, Any]
    trained_on: Mapping[str, Any]
    axes: dict[str, str]
    threat: ThreatModel

    @property
    def sizes(self) -> str:
        """Its data in words."""
        net = self.net
        sizes = f"{net.num_classes} classes of {net.in_channels} x {net.image_size} x {net.image_size} pixels"
        return f"{self.data_name} ({sizes})"

    @property
    def data_name(self) -> str:
        """The class of its data module."""
        return self.settings.get("data", {}).get("class_path", "unknown data").rpartition(".")[2]

    def starts(self) -> dict[str, Activation]:
        """Its activations as they were before training, where that does not depend on random numbers."""
        return known_starts(*(self._fresh(seed) for seed in (0, 1)))

    def attack_view(self) -> nn.Module | None:
        """The faster form of the network through which its run attacked it; None if its run used none."""
        view = self.settings["model"].get("attack_view")
        return build(Callable[[nn.Module], nn.Module], view)(self.net) if view else None  # type: ignore[arg-type]

    def hashes(self) -> dict[str, str | None]:
        """The hashes of checkpoint and network, as the records of tests state them."""
        return {"checkpoint_sha256": sha256(self.path), "network_sha256": identity_digest(self.net)}

    def _fresh(self, seed: int) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(Backbone, self.settings["model"]["net"])


def open_checkpoints(paths: Sequence[str], own: Sequence[str] = ()) -> list[Inspected]:
    """Read checkpoints, and check that they can be inspected side by side.

    Args:
        paths: files, or run folders, which stand for their best checkpoints.
        own: packages of the user that the checkpoints may name.

    Raises:
        ValueError: in one line, if one of them is no checkpoint, has no activation layer, occurs twice, or is of other
            data than the first.
    """
    for path in paths:
        if path in ("best", "last"):
            raise ValueError(f"--ckpt_path {path} leaves open of which run; give files or run folders")
    found = [_opened(find_checkpoint(path, Path("runs"), "unnamed"), own) for path in paths]
    twice = [path for path, count in Counter(each.path.resolve() for each in found).items() if count > 1]
    if twice:
        raise ValueError(f"--ckpt_path names {twice[0]} twice; give each checkpoint once")
    for each in found:
        if not activation_layers(each.net):
            raise ValueError(f"{each.path}: its network {each.net.label} has no activation layer to inspect")
        if each.sizes != found[0].sizes:
            raise ValueError(
                f"{found[0].path} was trained on {found[0].sizes} and {each.path} on {each.sizes}; inspect only "
                "networks of the same data together"
            )
    return found


def full_evaluations(inspected: Sequence[Inspected], folders: Sequence[str]) -> list[dict[str, Any] | None]:
    """What full evaluations of the checkpoints have measured; None where there is none.

    Args:
        inspected: the checkpoints, whose own runs are searched.
        folders: run folders of tests that lie elsewhere.

    Raises:
        ValueError: if one of the folders holds no full evaluation of any of the checkpoints.
    """
    hashes = [each.hashes() for each in inspected]
    tests: list[list[str]] = [[] for _ in inspected]
    for folder in folders:
        tested = read_report(folder).get("checkpoint_sha256")
        mine = [part for part, known in zip(tests, hashes, strict=True) if known["checkpoint_sha256"] == tested]
        if not mine:
            raise ValueError(f"{folder} holds no full evaluation of one of the checkpoints; leave it out of --tests")
        mine[0].append(folder)
    found = [measured(each.path, own, more).metrics for each, own, more in zip(inspected, hashes, tests, strict=True)]
    return [(each or {}).get("full_evaluation") for each in found]


def _opened(path: Path, own: Sequence[str]) -> Inspected:
    net, settings, checkpoint = load_with_settings(path, own)
    model = settings["model"]
    objective = build(Objective, model["objective"]).label if model.get("objective") else "unknown objective"
    threat = build(ThreatModel, model["threat"]) if model.get("threat") else ThreatModel()
    axes = {"network": net.label.partition("(")[0], "activation": net.activation_label, "objective": objective}
    return Inspected(path, net, settings, checkpoint.get("trained_on") or {}, axes, threat)


def one_threat(inspected: Sequence[Inspected]) -> ThreatModel:
    """The threat model of all runs.

    Raises:
        ValueError: if they differ.
    """
    first = inspected[0]
    for each in inspected:
        if each.threat != first.threat:
            raise ValueError(
                f"{first.path} was trained for {first.threat} and {each.path} for {each.threat}; state one for all: "
                "--attack=PGD --attack.eps=8/255 --attack.norm=Linf"
            )
    return first.threat
