"""The robustness table of the documentation: the full evaluation of networks of the thesis and of this project.

python benchmarks/robustness.py --data FILE --thesis thesis_resnet20/*.npz --checkpoints runs/*/*/checkpoints/best*.ckpt
python benchmarks/robustness.py --read runs/robustness/version_*    # the table of existing evaluations
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch

from kafnets.backbones import load_thesis
from lightning_modules.callbacks.robustness_text import per_cent

ROOT = Path(__file__).resolve().parents[1]
# column: role and class of its attack
ATTACKS = {"PGD": ("white", "PGD"), "APGD": ("white", "APGD"), "APGD-T": ("white", "APGDT"), "FAB-T": ("white", "FAB")}
ATTACKS |= {"Square": ("black", "Square"), "differences": ("black", "PGD")}
RESNET20 = ["--config=kafresnet20_fast_at.yaml"]


def thesis_checkpoint(weights: Path, folder: Path) -> tuple[Path, list[str]]:
    """Save weights of the thesis as a checkpoint for ``cli.py test``; return it with the flags of its network."""
    net = load_thesis(weights)
    path = folder / f"{weights.stem}.ckpt"
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    about = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": pytorch_lightning.__version__}
    torch.save({"state_dict": state} | about, path)
    activation = {"ReLU": ["--model.net.activation=ReLU"], "KAF": []}[type(net.act1).__name__]
    free = ["--model.net.activation.free=true"] if getattr(net.act1, "free", False) else []
    return path, [*RESNET20, f"--run.name=thesis_{weights.stem}", *activation, *free]


def evaluate(checkpoint: Path, flags: list[str], options: argparse.Namespace) -> Path:
    """Run ``cli.py test --config eval_full.yaml``, and return its run folder."""
    before = set(options.runs.glob("*/version_*"))
    common = ["--config=eval_full.yaml", f"--data.path={options.data}", f"--model.test_images={options.images}"]
    command = [sys.executable, str(ROOT / "cli.py"), "test", *flags, *common]
    command += [f"--ckpt_path={checkpoint}", f"--run.dir={options.runs}"]
    subprocess.run(command, check=True)
    (folder,) = set(options.runs.glob("*/version_*")) - before
    return folder


def evaluations(options: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for weights in options.thesis:
            path, flags = thesis_checkpoint(weights, Path(folder))
            yield evaluate(path, [*flags, "--config=cifar10_jpeg.yaml"], options)
    for checkpoint in options.checkpoints:
        yield evaluate(checkpoint, [f"--run.name={checkpoint.parents[2].name}"], options)


def cell(record: dict[str, Any], role: str, attack: str) -> str:
    for name, found in record["attacks"].items():
        if name.startswith(f"{role}/") and found["settings"]["attack"] == attack:
            return f"{100 * found['accuracy']:.1f}"
    return "-"


def row(folder: Path) -> str:
    """One evaluation as a row of Markdown."""
    record = json.loads((folder / "robustness.json").read_text())
    statuses = [check["status"] for check in record["checks"]]
    said = ", ".join(f"{statuses.count(status)} {status}" for status in ("warn", "fail") if status in statuses)
    cells = [folder.parent.name, str(record["images"]), per_cent(record["clean"])]
    cells += [cell(record, *which) for which in ATTACKS.values()]
    cells += [f"**{per_cent(record['worst_case'])}**", said or "pass", str(record["checkpoint_sha256"])[:12]]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or tar of images, {train,test}/<class>/*.jpg")
    parser.add_argument("--thesis", type=Path, nargs="*", default=[], help="weights of the thesis, .npz")
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[], help="checkpoints of ours")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--runs", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--read", type=Path, nargs="+", help="only read these run folders")
    options = parser.parse_args()
    if not options.read and not (options.data and [*options.thesis, *options.checkpoints]):
        parser.error("give --data and networks (--thesis, --checkpoints) to evaluate, or --read")
    folders = options.read or list(evaluations(options))
    names = ["network", "images", "clean % [95 %]", *ATTACKS, "worst case % [95 %]", "checks", "checkpoint"]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|", *map(row, folders), sep="\n")


if __name__ == "__main__":
    main()
