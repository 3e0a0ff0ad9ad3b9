"""The record behind "Do the activations explain robustness?": one small JSON of an inspection of many networks.

    python cli.py inspect --ckpt_path RUN ... --tests RUN ... --images=200 --out inspected
    python benchmarks/activation_statistics.py inspected --out results/activation_statistics.json

Of each network it keeps what tells it apart, the worst case of its full evaluation, and every statistic with four
digits; an inspection itself, with its densities and loss surfaces, takes megabytes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lightning_modules.files import write_json

ABOUT = ("images", "images_sha256", "attack")


def reduced(record: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an ``inspect.json``.

    Raises:
        ValueError: if a network has no full evaluation.
    """
    networks = []
    for each in record["networks"]:
        if not each["full_evaluation"]:
            raise ValueError(f"{each['label']} has no full evaluation; give its test to `inspect` by --tests")
        axes = each["axes"]
        networks.append(
            {
                "network": " · ".join(axes[name] for name in ("network", "activation", "objective")),
                "backbone": axes["network"],
                "activation": axes["activation"],
                "objective": axes["objective"],
                "checkpoint_sha256": each["checkpoint_sha256"],
                "network_sha256": each["network_sha256"],
                "worst_case": each["full_evaluation"]["worst_case"],
                "statistics": {name: four_digits(value) for name, value in each["statistics"].items()},
            }
        )
    about = {name: record[name] for name in ABOUT}
    return about | {"robust_accuracy": record["robust_accuracy"]["measured"], "networks": networks}


def four_digits(value: float | str | None) -> float | str | None:
    return float(f"{value:.4g}") if isinstance(value, float | int) else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inspected", type=Path, help="folder of the inspection")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    record = json.loads((options.inspected / "inspect.json").read_text(encoding="utf-8"))
    try:
        write_json(options.out, reduced(record))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
