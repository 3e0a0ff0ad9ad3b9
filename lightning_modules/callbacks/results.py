"""The record of a test: accuracies with all that is needed to reproduce them."""

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from lightning_modules.callbacks.history import History
from lightning_modules.callbacks.robustness_text import title, wrapped
from lightning_modules.callbacks.throughput import peak_memory_mb
from lightning_modules.files import write_json
from lightning_modules.provenance import environment, provenance


def results_record(trainer: Trainer, module: Any, test_seconds: float) -> dict[str, Any]:
    """Return accuracies with Wilson 95 % intervals, their attack, checkpoint, seed, dtype and device, and their costs.

    ``seconds`` of the fit are those of its epochs, of a resumed run too; ``memory`` is the peak in bytes, see
    :func:`~lightning_modules.callbacks.throughput.peak_memory_mb`; ``events`` are what callbacks have noted.
    """
    counted = module.test_results
    record: dict[str, Any] = {
        name: {"accuracy": counted[f"{name}_accuracy"]}
        | {f"wilson95_{end}": counted[f"{name}_accuracy_{end}"] for end in ("low", "high")}
        | {"images": int(counted[f"{name}_images"])}
        for name in ("clean", "robust")
    }
    record |= {"loss": counted["loss"], "attack": module.test_attack.settings()}
    record |= provenance(trainer, module) | {"device": module.device.type, "torch": torch.__version__}
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    rows = [row for item in callbacks if isinstance(item, History) for row in item.rows]
    peaks = [peak_memory_mb(module.device), *(row.get("peak_memory_mb", 0.0) for row in rows)]
    return record | {
        "parameters": sum(parameter.numel() for parameter in module.net.parameters()),
        "seconds": {"fit": sum(row.get("epoch_seconds", 0.0) for row in rows), "test": test_seconds},
        "memory": round(1e6 * max(peaks)),
        "environment": environment(module.device),
        "events": [event for item in callbacks for event in getattr(item, "events", [])],
    }


def results_table(record: dict[str, Any], attack: str, folder: str) -> str:
    """Return the record as a short table of plain text."""
    run = record["run"]
    rows = [
        ("run", title(record)),
        ("weights", run["weights"]),
        ("checkpoint", f"{record['checkpoint']}  sha256 {(record['checkpoint_sha256'] or '-')[:12]}"),
    ]
    for name, label in (("clean", "clean accuracy"), ("robust", "robust accuracy")):
        value = record[name]
        interval = f"[{100 * value['wilson95_low']:.2f}, {100 * value['wilson95_high']:.2f}]"
        under = f", {attack}" if name == "robust" else ""
        rows.append((label, f"{100 * value['accuracy']:6.2f} %  95 % {interval}  {value['images']} images{under}"))
    rows.append(("run folder", folder))
    width = max(len(name) for name, _ in rows)
    lines = [line for name, text in rows for line in wrapped(f"{name:<{width}}  ", text)]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule])


class Results(Callback):
    """After a test, write ``results.json`` and print its table.

    Rank 0 writes the file. An existing file is not overwritten: a FileExistsError names it.
    """

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write and print."""
        folder = trainer.log_dir  # a collective call: every rank makes it
        if not (trainer.is_global_zero and trainer.loggers and folder):
            return
        record = results_record(trainer, pl_module, time.monotonic() - self._begun)
        path = Path(folder) / "results.json"
        if path.exists():
            raise FileExistsError(f"{path} is there already; test into another run folder")
        write_json(path, record)
        print(results_table(record, str(pl_module.test_attack), folder), flush=True)
