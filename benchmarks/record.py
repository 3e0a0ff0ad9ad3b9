"""Seconds of training to 40 and 43 % AutoAttack accuracy on CIFAR-10, by ``configs/records/cifar10.yaml``.

    python benchmarks/record.py --out results/gpu/records.json
    python benchmarks/record.py --seeds 0 --images 1000 --data cifar10-jpeg.tar.gz --out records.json
    python benchmarks/record.py --dry_run --out records.json          # the same code on a CPU, tiny

Every seed is one ``cli.py fit`` whose final test is AutoAttack on the test images. Its seconds are those of all epochs,
with their validation and with the compilation of the network, and without AutoAttack. A record counts if the lower end
of the 95 % interval of its mean over the seeds reaches the target; with one seed, that of the images. The file is
rewritten after every seed.
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats
from timing import machine

import cli
from kafnets.files import written_whole

TARGETS = {"cifar10_40": 0.40, "cifar10_43": 0.43}
LONGER = {"cifar10_43": ["--trainer.max_epochs=15", "--model.objective.sizes={0: 24, 8: 32}"]}
TINY = [
    *("--config", "digits.yaml", "--config", "cpu.yaml", "--model.compile_backend=null", "--trainer.max_epochs=1"),
    *("--trainer.limit_train_batches=2", "--model.net.width=4", "--model.objective.sizes={0: 8}"),
]


def train(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and test with one seed; return its figures."""
    runs = options.runs / name
    data = ["--config", "cifar10_jpeg.yaml", f"--data.path={options.data}"] if options.data else []
    size = [f"--model.test_images={options.images}"] if options.images else []
    flags = [f"--seed_everything={seed}", f"--run.dir={options.runs}", f"--run.name={name}", *LONGER.get(name, [])]
    flags += TINY if options.dry_run else []
    cli.main(["fit", "--config", "records/cifar10.yaml", *data, *size, *flags])
    run = max(runs.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))
    found = json.loads((run / "results.json").read_text())
    epochs = list(csv.DictReader((run / "history.csv").open()))
    taken = {"seconds": sum(float(row["epoch_seconds"]) for row in epochs), "epochs": len(epochs), "seed": seed}
    kept = ("clean", "robust", "attack", "run", "data", "data_sha256", "checkpoint_sha256", "code", "device", "torch")
    return taken | {key: found[key] for key in kept}


def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean seconds and accuracy over the seeds, and whether the target is reached."""
    accuracies = [row["robust"]["accuracy"] for row in rows]
    low = rows[0]["robust"]["wilson95_low"]
    if len(rows) > 1:
        low = fmean(accuracies) - stats.t.ppf(0.975, len(rows) - 1) * stdev(accuracies) / len(rows) ** 0.5
    seconds = fmean(row["seconds"] for row in rows)
    return {
        "target": TARGETS[name],
        "mean_seconds": seconds,
        "mean_accuracy": fmean(accuracies),
        "low95": low,
        "reached": bool(low >= TARGETS[name]),
        "seeds": rows,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="test images under AutoAttack; all by default")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as image files; downloaded to data/ by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/records"))
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--dry_run", action="store_true")
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {"machine": machine("cpu" if options.dry_run else "cuda")}
    for name in options.records:
        rows: list[dict[str, Any]] = []
        for seed in options.seeds:
            rows.append(train(name, seed, options))
            record[name] = summary(name, rows)
            with written_whole(options.out) as file:
                file.write_text(json.dumps(record, indent=1) + "\n")
            print(f"{name}, seed {seed}: {rows[-1]['seconds']:.1f} s, {rows[-1]['robust']['accuracy']:.2%}", flush=True)


if __name__ == "__main__":
    main()
