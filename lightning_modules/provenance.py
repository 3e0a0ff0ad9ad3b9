"""The provenance of a figure, part of every record of a test."""

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from kafnets.attacks.identity import digest, identity_digest
from lightning_modules.files import sha256

ROOT = Path(__file__).resolve().parents[1]
# settings of data modules that say where files are: they differ between machines, and belong to no result
PLACES = ("path", "root", "cache")


def provenance(trainer: Trainer, module: Any) -> dict[str, Any]:
    """Return ``checkpoint`` and its SHA-256, ``run`` (network, activation, training), ``data``, ``seed`` and ``dtype``.

    ``code`` is the version of the code, see :func:`code_version`. ``network_sha256`` covers what the checkpoint's hash
    does not: the network as built (normalisation, ratios); None if it has no
    :func:`~kafnets.attacks.identity.identity`. For ``data_images``, ``data_classes`` and ``data_sha256``, see
    :func:`data_identity`.

    Args:
        trainer: the trainer, during a test.
        module: the :class:`~lightning_modules.classifier.Classifier` it tests.
    """
    checkpoint = trainer.ckpt_path
    data = data_identity(trainer, trainer.test_dataloaders.dataset)  # type: ignore[union-attr]
    return {
        "checkpoint": str(checkpoint) if checkpoint else None,
        "checkpoint_sha256": sha256(Path(checkpoint)) if checkpoint else None,
        "network_sha256": identity_digest(module.net),
        "run": module.labels(),
        **data,
        "seed": module.seed,
        "dtype": str(next(module.net.parameters()).dtype).removeprefix("torch."),
        "tf32": False,  # see lightning_modules.measuring
        "code": code_version(),
    }


def data_identity(trainer: Trainer, dataset: Any) -> dict[str, Any]:
    """Return what tells a set of images from another, wherever its files lie.

    ``data`` is the class of the data module, ``data_images`` and ``data_classes`` are numbers of images and classes,
    and ``data_sha256`` covers all images in their order, their labels, and the names of the classes; of images that
    lie in files, their files.
    """
    return {
        "data": type(trainer.datamodule).__name__,  # type: ignore[attr-defined]
        "data_images": len(dataset),
        "data_classes": len(dataset.class_names),
        "data_sha256": dataset.content_sha256 or _hash_of_all(dataset),
    }


def _hash_of_all(dataset: Any) -> str:
    found = hashlib.sha256(json.dumps(list(dataset.class_names)).encode())
    for rows in torch.arange(len(dataset)).split(1000):
        x, y, _ = dataset[rows]
        found.update((digest(x) + digest(y)).encode())
    return found.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a figure may depend on beside the code: versions, device, threads and platform."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    found = {"torch": torch.__version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | {"device": device.type, "device_name": name, "threads": torch.get_num_threads()}


@cache
def code_version() -> str:
    """Return the package's version and the git commit, as ``0.1.0 1a2b3c...``; ``-dirty`` after changes."""
    output = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return f"{_package_version()} without git"
        if done.returncode:
            return f"{_package_version()} without git"
        output.append(done.stdout.strip())
    return f"{_package_version()} {output[0]}{'-dirty' if output[1] else ''}"


def study_name() -> str | None:
    """Return the study that this run is a member of, which the study states in the variable KAFNETS_STUDY."""
    return os.environ.get("KAFNETS_STUDY")


def _package_version() -> str:
    try:
        return metadata.version("kafnets")
    except metadata.PackageNotFoundError:
        return "not installed"
