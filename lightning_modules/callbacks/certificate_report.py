"""Certified accuracy beside the accuracy under attack, on the same images of a test."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from kafnets.analysis.certified_study import CertifiedStudy
from kafnets.analysis.per_image_results import PerImageResults
from kafnets.attacks import Attack
from kafnets.certify import Certificate
from kafnets.keyed_random import image_keys
from kafnets.threat import ThreatModel
from lightning_modules.callbacks.robustness_text import per_cent, title, wrapped
from lightning_modules.classifier import TEST
from lightning_modules.files import write_json
from lightning_modules.measuring import in_float32
from lightning_modules.provenance import provenance


class CertificateReport(Callback):
    """During a test, certify the first ``test_images`` images and attack them: ``certificates.json`` and a table.

    An image that is certified and that an attack within the same radius fools stops the test with an error, and so do
    more failures of a statistical certificate than chance explains. The file is rewritten after every batch.

    Args:
        certificates: what to certify with; each has its radii, or the eps of the run.
        attacks: what to compare with, in the norm and at the radius of each certificate.

    Raises:
        ValueError: when the test starts, if certificates, attacks and the threat model of the run do not fit together,
            or no bound of the network is known.
        FileExistsError: when the test starts, if the run folder has such a file already.
    """

    def __init__(self, *, certificates: list[Certificate], attacks: list[Attack]) -> None:
        self.certificates, self.attacks = certificates, attacks

    def study_within(self, threat: ThreatModel) -> CertifiedStudy:
        """Return the study in the threat model of the run; see its errors."""
        return CertifiedStudy(self.certificates, self.attacks, threat)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check everything that may be refused, before any work."""
        self._outcomes = PerImageResults.join([])
        folder = trainer.log_dir  # a collective call: every rank makes it
        self._file = Path(folder) / "certificates.json" if folder and trainer.loggers else None
        if self._file and self._file.exists():
            raise FileExistsError(f"{self._file} is there already; test into another run folder")
        self._study = self.study_within(pl_module.threat)
        self._study.prepare(pl_module.net)
        self._about = provenance(trainer, pl_module) | {"threat": str(pl_module.threat)}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: tuple[Tensor, Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch on every process; rank 0 checks and writes the results of all."""
        index = batch[2]
        chosen = slice(None) if pl_module.test_images is None else index < pl_module.test_images
        x, y, index = (values[chosen] for values in batch)
        part = None
        if len(x):
            with in_float32(x.device):
                keys = image_keys(index, pl_module.seed, TEST)
                part = self._study.measure(pl_module.net, x, y, index, keys)
        found = [one for one in self._gather(trainer, part) if one is not None]
        if found:
            self._outcomes = PerImageResults.join([self._outcomes, *found])
            self._study.check(self._outcomes)
            if trainer.is_global_zero:
                self._write()
                print(f"certificates: {len(self._outcomes)} images", flush=True)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the table and log the accuracies."""
        if not trainer.is_global_zero or not len(self._outcomes):
            return
        record = self._write()
        for logger in trainer.loggers:
            logger.log_metrics(
                {
                    f"test/{name}_certified_{eps}": row["certified"]["accuracy"]
                    for name, certificate in record["certificates"].items()
                    for eps, row in certificate["radii"].items()
                },
                step=trainer.global_step,
            )
        print(table(record, str(self._file)), flush=True)

    def _gather(self, trainer: Trainer, part: Any) -> list[Any]:
        if trainer.world_size == 1:
            return [part]
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, part)
        return parts

    def _write(self) -> dict[str, Any]:
        record = {"images": len(self._outcomes)} | self._about | {"torch": torch.__version__}
        record |= self._study.record(self._outcomes)
        if self._file:
            write_json(self._file, record)
        return record


def table(record: dict[str, Any], path: str) -> str:
    """Return the record as a table of plain text: for each radius what is certified, and what survives the attacks."""
    rows = [("run", title(record)), ("clean", f"{per_cent(record['clean'])} %  {record['images']} images")]
    for name, certificate in record["certificates"].items():
        for eps, row in certificate["radii"].items():
            at = f"{name}, {certificate['norm']} {eps}"
            both = f"certified {per_cent(row['certified'])} %, under attack {per_cent(row['worst_case'])} %"
            rows.append((at, both))
    rows.append(("written to", path))
    width = max(len(name) for name, _ in rows)
    lines = [line for name, text in rows for line in wrapped(f"{name:<{width}}  ", text)]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule])
