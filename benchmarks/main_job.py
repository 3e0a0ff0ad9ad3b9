"""The results table of the documentation: train recipes, test their best checkpoints, print one row per run.

    python benchmarks/main_job.py --data FILE                      # KafVGG, and the VGG with ReLU, 5 epochs
    python benchmarks/main_job.py --data FILE --config gpu.yaml --epochs 15 --restarts 10 \
        kafvgg_short_fast_at vgg_relu_short_fast_at preactresnet18_fast_at
    python benchmarks/main_job.py --read runs/*/version_*          # the table of existing runs
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[1]


def machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}"


def row(run: Path) -> str:
    """One run folder as a row of Markdown."""
    results = json.loads((run / "results.json").read_text())
    epochs = list(csv.DictReader((run / "history.csv").open()))
    about = results["run"]
    cells = [f"{about['backbone']} {about['activation']}", about["objective"], str(len(epochs))]
    for name in ("clean", "robust"):
        value = results[name]
        low, high = 100 * value["wilson95_low"], 100 * value["wilson95_high"]
        cells.append(f"{100 * value['accuracy']:.1f} [{low:.1f}, {high:.1f}], {value['images']}")
    attack = results["attack"]
    cells.append(f"PGD-{attack['steps']}-{attack['restarts']}")
    for name, form in (("epoch_seconds", "{:.0f}"), ("images_per_second", "{:.0f}"), ("peak_memory_mb", "{:.0f}")):
        cells.append(form.format(median(float(epoch[name]) for epoch in epochs)))
    cells += [str(results["seed"]), results["checkpoint_sha256"][:12]]
    return "| " + " | ".join(cells) + " |"


def table(runs: list[Path]) -> str:
    """All runs as a Markdown table."""
    names = ["network", "trained with", "epochs", "clean % [95 %], images", "robust % [95 %], images", "attack"]
    names += ["s / epoch", "images / s", "peak MB", "seed", "checkpoint"]
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *map(row, runs)])


def train(recipe: str, options: argparse.Namespace) -> Path:
    """Run the command line once; the run folder is the newest of its name."""
    flags = [f"--config={recipe}", "--config=cifar10_jpeg", f"--data.path={options.data}", f"--run.dir={options.runs}"]
    flags += [f"--config={name}" for name in options.config] + [f"--run.name={recipe}"]
    flags += [f"--trainer.max_epochs={options.epochs}", f"--model.test_attack.restarts={options.restarts}"]
    subprocess.run([sys.executable, ROOT / "cli.py", "fit", *flags], check=True)
    folders = (options.runs / recipe).glob("version_*")
    return max(folders, key=lambda folder: int(folder.name.removeprefix("version_")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["kafvgg_short_fast_at", "vgg_relu_short_fast_at"])
    parser.add_argument("--data", type=Path, help="folder or tar of images, {train,test}/<class>/*.jpg")
    parser.add_argument("--config", action="append", default=[], help="further configs, such as gpu.yaml")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--read", type=Path, nargs="+", help="only read these run folders")
    options = parser.parse_args()
    if options.read is None and options.data is None:
        parser.error("give --data to train, or --read to print the table of existing runs")
    runs = options.read or [train(recipe, options) for recipe in options.recipes]
    print(f"{machine()}\n\n{table(runs)}")


if __name__ == "__main__":
    main()
