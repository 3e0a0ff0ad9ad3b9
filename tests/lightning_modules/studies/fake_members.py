"""Invented records of study members, for tests and for a look at a page: ``python fake_members.py FOLDER``."""

import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import counted
from lightning_modules.studies.member_record import write_member

ATTACKS = ("white/APGD-CE", "white/APGD-T")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def count(right: torch.Tensor) -> dict[str, Any]:
    return {name: value for name, value in counted(right).items() if name != "right"}


def outcomes(member: str, clean: float, robust: float, images: int) -> PerImageResults:
    """Invented outcomes: hard images are the same for every member, and an attack only takes from what is right."""
    index = torch.arange(images)
    shared = torch.rand(images, generator=torch.Generator().manual_seed(0))
    own = torch.rand(images, generator=torch.Generator().manual_seed(int(sha(member)[:8], 16)))
    ease = 0.6 * shared + 0.4 * own
    kept = {"clean": ease >= ease.quantile(1 - clean)}
    for name, share in zip(ATTACKS, (robust + 0.01, robust), strict=True):
        kept[name] = kept["clean"] & (ease >= ease.quantile(1 - share))
    return PerImageResults({"index": index, "label": index % 10} | kept)


def history(epochs: int, clean: float, robust: float) -> list[dict[str, float]]:
    rows = []
    for epoch in range(1, epochs + 1):
        share = 1 - 0.5**epoch
        rows.append(
            {"epoch": epoch, "train/loss": 2.3 - share, "val/clean_accuracy": clean * share}
            | {"val/robust_accuracy": robust * share, "epoch_seconds": 60.0, "peak_memory_mb": 900.0}
        )
    return rows


def shapes(layers: int = 2, channels: int = 3) -> list[dict[str, Any]]:
    x = torch.linspace(-3, 3, 41)
    start = [torch.nn.functional.elu(x).tolist()] * channels
    y = [(torch.nn.functional.elu(x) + 0.2 * c * torch.sin(x)).tolist() for c in range(channels)]
    return [{"layer": f"block{i + 1}.act_a", "x": x.tolist(), "y": y, "start": start} for i in range(layers)]


def fake_member(
    activation: str = "ReLU",
    objective: str = "fast_at",
    seed: int = 0,
    *,
    study: str = "fake",
    clean: float = 0.6,
    robust: float = 0.3,
    images: int = 1000,
    report: bool = True,
    **changes: Any,
) -> dict[str, Any]:
    """A whole record; ``changes`` replaces fields."""
    member = f"{activation}-{objective}-{seed}".lower().replace(" ", "_")
    results = outcomes(member, clean, robust, images)
    settings = {"norm": "Linf", "eps": 8 / 255}
    right = {name: results[name] for name in ("clean", *ATTACKS)}
    worst = torch.stack([*right.values()]).amin(0)
    record: dict[str, Any] = {
        "study": study,
        "member": member,
        "axes": {"activation": activation, "objective": objective, "seed": str(seed)},
        "command": ["fit", "--config", f"vgg_{activation.lower()}.yaml", f"--seed_everything={seed}"],
        "config_sha256": sha(member),
        "source_sha256": sha("source"),
        "run": {"activation": activation, "backbone": "KafVGG", "objective": objective, "loss": "cross_entropy"}
        | {"weights": "of the last step", "norm": "Linf", "eps": 8 / 255, "seed": seed},
        "data": "ImageFolder",
        "data_images": 5000,
        "data_classes": 10,
        "data_sha256": sha("data"),
        "code": "0.1.0 0123456789abcdef",
        "checkpoint_sha256": sha(f"checkpoint {member}"),
        "network_sha256": sha(f"network {member}"),
        "dtype": "float32",
        "seed": seed,
        "clean": count(right["clean"]),
        "robust": count(right["white/APGD-CE"]) | {"attack": settings | {"attack": "PGD", "steps": 50}},
        "worst_case": count(worst) | {"attacks": list(ATTACKS)},
        "attacks": {name: {"accuracy": count(right[name])["accuracy"], "settings": settings} for name in ATTACKS},
        "outcomes": results.encode(),
        "checks": [],
        "eps_curve": [[0.0, clean, 100], [4 / 255, (clean + robust) / 2, 100], [8 / 255, robust, 100]],
        "history": history(4, clean, robust),
        "shapes": shapes() if activation == "KAF" else [],
        "events": [],
        "parameters": 551722,
        "seconds": {"fit": 512.3, "test": 200.1},
        "memory": 1_200_000_000,
        "environment": {"torch": "2.11.0", "python": "3.11.9", "device": "cpu", "threads": 1, "platform": "Linux"},
    }
    if not report:
        record |= {"worst_case": None, "attacks": {}, "outcomes": None, "eps_curve": None}
    return record | changes


def write_fake_study(folder: Path, study: str = "fake") -> list[Path]:
    """Write a study of three activations, two objectives and three seeds; one member has collapsed."""
    quality = {"ReLU": 0.0, "SiLU": 0.02, "KAF": 0.015}
    paths = []
    for activation, objective, seed in itertools.product(quality, ("fast_at", "trades"), range(3)):
        better = quality[activation] + 0.005 * seed
        record = fake_member(
            activation,
            objective,
            seed,
            study=study,
            clean=0.6 + better - 0.05 * (objective == "trades"),
            robust=0.3 + better + 0.02 * (objective == "trades"),
        )
        if (activation, objective, seed) == ("ReLU", "fast_at", 2):
            event = {"kind": "catastrophic overfitting", "step": 320, "epoch": 4, "text": "of 100 images 90% resist"}
            check = {"name": "more steps are stronger", "status": "warn", "numbers": "3 of 100", "advice": "add steps"}
            record |= {"events": [event], "checks": [check | {"images": []}]}
        paths.append(write_member(folder, record))
    return paths


if __name__ == "__main__":
    write_fake_study(Path(sys.argv[1]))
