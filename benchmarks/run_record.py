"""One small JSON of a run folder, for `results/`: settings, every epoch, probes of the guard, and the test.

    python benchmarks/run_record.py runs/silu/version_0 --out results/recipe/silu.json

The test is that of the folder itself, or of another one that tested its checkpoint (`--test`), with its worst case
where there is a full evaluation.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_modules.files import write_json

COUNTED = ("accuracy", "wilson95_low", "wilson95_high", "images")
SETTINGS = ("net", "objective", "threat", "optimizer", "loss")


def epochs(run: Path) -> list[dict[str, float]]:
    """The rows of `history.csv`, without empty cells."""
    with (run / "history.csv").open(encoding="utf-8") as file:
        return [{name: round(float(cell), 5) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def probes(run: Path) -> list[dict[str, float]]:
    """Step and both accuracies of every probe of the guard."""
    names = {"fgsm": "guard/single_step_accuracy", "pgd": "guard/pgd_accuracy"}
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(names["pgd"])]
    return [{"step": int(row["step"])} | {name: float(row[key]) for name, key in names.items()} for row in rows]


def tested(run: Path) -> dict[str, Any]:
    """`results.json`, with the worst case of `robustness.json` where there is one."""
    found: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    found["checkpoint"] = Path(found["checkpoint"]).name  # no place of a machine
    full = run / "robustness.json"
    if full.is_file():
        report = json.loads(full.read_text(encoding="utf-8"))
        attacks = {name: row["settings"] for name, row in report["attacks"].items()}
        found["worst_case"] = {name: report["worst_case"][name] for name in COUNTED} | {"attacks": attacks}
    return found


def record(run: Path, test: Path) -> dict[str, Any]:
    checkpoint = torch.load(next((run / "checkpoints").glob("last*.ckpt")), map_location="cpu", weights_only=True)
    config = yaml.safe_load(checkpoint["config"])
    settings = config["model"]["init_args"]
    about = {"code": checkpoint["code"]} | {name: settings.get(name) for name in SETTINGS}
    about |= {"record": checkpoint.get("record"), "seed": config["seed_everything"]}
    about |= {"precision": config["trainer"]["precision"]}
    return about | {"epochs": epochs(run), "guard": probes(run), "test": tested(test)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of the training")
    parser.add_argument("--test", type=Path, help="run folder of its test; the training's own by default")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        found = record(options.run, options.test or options.run)
    except (OSError, StopIteration) as error:
        parser.error(f"{options.run} is no finished run: {error or 'there is no last checkpoint'}")
    write_json(options.out, found)


if __name__ == "__main__":
    main()
