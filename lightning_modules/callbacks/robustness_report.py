"""The full evaluation during a test: many attacks, their worst case, curves and checks."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import plain, robustness_record
from kafnets.analysis.robustness_study import ROLES, Measured, RobustnessStudy
from kafnets.attacks import Attack
from kafnets.attacks.identity import identity_digest
from kafnets.attacks.transfer import Transfer
from kafnets.keyed_random import image_keys
from kafnets.plots import Sheet, plot_robustness
from kafnets.threat import ThreatModel
from lightning_modules.callbacks.evaluation_progress import progress_of
from lightning_modules.callbacks.robustness_files import read_resumable, robustbench
from lightning_modules.callbacks.robustness_text import markdown, screen, title
from lightning_modules.classifier import TEST
from lightning_modules.files import sha256, write_figure, write_json, write_text
from lightning_modules.load_classifier import load_classifier
from lightning_modules.measuring import in_float32
from lightning_modules.provenance import provenance

WORST = ("accuracy", "wilson95_low", "wilson95_high")  # what loggers get of the worst case
SHEET = 8  # number of images on the contact sheet


class RobustnessReport(Callback):
    """During a test, write ``robustness.json``, ``robustness.md``, ``robustness.png`` and ``robustbench.json``.

    The first two are rewritten atomically after every batch, so an interrupted test keeps the images measured so far;
    test sets are ordered so that the first images are always a balanced sample. Every process measures its own images.
    Random numbers are drawn per image, so the figures depend neither on batches nor on the number of processes.

    Args:
        white_box, black_box, single_step, noise: see :class:`kafnets.analysis.robustness_study.RobustnessStudy`. They
            take norm and eps from the threat model of the run.
        curve_images: number of images on which the curves are measured, >= 1. All else is measured on the images of
            the configuration's own test attack, the first ``test_images``.
        surrogate: checkpoint of another network for the same images; ``transfer`` attacks it, and what it finds is
            tried on the tested network.
        transfer: the attack on the surrogate.
        resume: ``robustness.json`` of an earlier test of the same checkpoint with the same settings, unfinished or of
            fewer images; its images are not measured again.

    Raises:
        ValueError: if ``curve_images`` < 1, the attacks do not fit together, one of ``surrogate`` and ``transfer`` is
            missing, or (when the test starts) ``resume`` is of another test.
        FileExistsError: when the test starts, if the run folder has a report already.
    """

    def __init__(
        self,
        *,
        white_box: list[Attack],
        black_box: list[Attack] | None = None,
        single_step: Attack | None = None,
        noise: Attack | None = None,
        curve_images: int = 100,
        surrogate: str | None = None,
        transfer: Attack | None = None,
        resume: str | None = None,
    ) -> None:
        if curve_images < 1:
            raise ValueError(f"curve_images must be >= 1, got {curve_images}; the default is 100")
        if (surrogate is None) != (transfer is None):
            raise ValueError(
                "surrogate and transfer go together: the attack is built on the surrogate; give both or neither"
            )
        read_resumable(resume, {})  # an unreadable file is an error before a run folder exists
        self.white_box, self.black_box = white_box, black_box or []
        self.single_step, self.noise, self.transfer = single_step, noise, None
        self._surrogate_net = load_classifier(surrogate) if surrogate else None
        if self._surrogate_net and transfer:
            self.transfer = Transfer(surrogate=self._surrogate_net, attack=transfer)
        self.curve_images, self.surrogate, self.resume = curve_images, surrogate, resume
        self._outcomes = PerImageResults.join([])

    def study_within(self, threat: ThreatModel) -> RobustnessStudy:
        """Return the study, with every attack in the threat model of the run.

        Raises:
            ValueError: if an attack states another norm or eps, or the attacks do not fit together.
        """

        def bound(attack: Attack | None) -> Attack | None:
            return attack and attack.within(threat)

        study = RobustnessStudy(
            white_box=[attack.within(threat) for attack in self.white_box],
            black_box=[attack.within(threat) for attack in self.black_box],
            single_step=bound(self.single_step),
            noise=bound(self.noise),
            transfer=bound(self.transfer),
        )
        if study.ball.threat != threat:
            raise ValueError(
                f"the attacks of the report state {study.ball.threat}, the run {threat}; leave eps and norm out"
            )
        return study

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check everything that may be refused, before any work."""
        self._outcomes = PerImageResults.join([])  # drop the results of an earlier test
        self.folder = Path(trainer.log_dir) if trainer.log_dir and trainer.loggers else None
        if self.folder and (self.folder / "robustness.json").exists():
            raise FileExistsError(f"{self.folder / 'robustness.json'} is there already; test into another run folder")
        self.study = self.study_within(pl_module.threat)
        if self._surrogate_net is not None:
            self._surrogate_net.to(pl_module.device)
        self._identity = self._identify(trainer, pl_module)
        kept, self._facts, self._seconds = read_resumable(self.resume, self._identity)
        beyond, wanted = 1 + int(max(kept["index"].tolist(), default=-1)), self._images_wanted(trainer)
        if beyond > wanted:
            raise ValueError(
                f"{self.resume} has image number {beyond - 1}, this test wants the first {wanted}; "
                f"pass --model.test_images={beyond} or more, or leave resume out"
            )
        self._outcomes = kept
        self._done = {int(index) for index in kept["index"]}
        self._sheet: Sheet = []
        self._begun, self._images_before = time.monotonic(), len(self._outcomes)
        self._progress = progress_of(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: tuple[Tensor, Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch on every process; rank 0 writes the results of all."""
        index = batch[2]
        chosen = [i not in self._done and i < (pl_module.test_images or i + 1) for i in index.tolist()]
        wanted = torch.tensor(chosen, dtype=torch.bool, device=index.device)
        parts = self._gather(trainer, self._measure(trainer, pl_module, *(values[wanted] for values in batch)))
        if not any(parts):
            return
        found = [part for part in parts if part]
        self._outcomes = PerImageResults.join([self._outcomes, *(part[0] for part in found)])
        for _, facts, seconds in found:
            for name, values in facts.items():
                self._facts[name] = self._facts.get(name, set()) | values
            for name, value in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + value
        if trainer.is_global_zero:
            self._write(trainer, complete=False)
            self._say_progress(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write and draw the results of an interrupted test."""
        if trainer.is_global_zero and len(self._outcomes):
            self._draw(trainer, self._write(trainer, complete=False))
            onward = f"; go on with --trainer.callbacks.resume={self.folder / 'robustness.json'}" if self.folder else ""
            print(f"stopped after {len(self._outcomes)} images{onward}", file=sys.stderr, flush=True)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the finished report, draw it, and print a summary."""
        if not trainer.is_global_zero or not len(self._outcomes):
            return
        record = self._write(trainer, complete=len(self._outcomes) >= self._images_wanted(trainer))
        self._draw(trainer, record)
        if self.folder:
            reported = pl_module.test_results.get("robust_accuracy")
            write_json(self.folder / "robustbench.json", robustbench(record, self.study.ball, reported))
        worst = {f"test/worst_case_{name}": record["worst_case"][name] for name in WORST}
        for logger in trainer.loggers:
            logger.log_metrics(worst, step=trainer.global_step)
        print(screen(record, str(self.folder)), flush=True)
        self._outcomes = PerImageResults.join([])

    def _measure(self, trainer: Trainer, module: Any, x: Tensor, y: Tensor, index: Tensor) -> Any:
        if not len(x):
            return None
        with in_float32(x.device):
            keys = image_keys(index, module.seed, TEST)
            curves = index < self.curve_images
            found = self.study.measure(
                module.net, x, y, index=index, keys=keys, curves=curves, attacked=module.attacked,
                tell=lambda part, results: self._tell(trainer, part, results),
            )  # fmt: skip
            self._keep_pictures(module.net, x, y, found)
        return found.outcomes, found.facts, found.seconds

    def _keep_pictures(self, net: Any, x: Tensor, y: Tensor, found: Measured) -> None:
        """Keep the first images that an attack changed, for the contact sheet."""
        turned = (found.worst != x).flatten(1).any(1).nonzero().flatten()[: SHEET - len(self._sheet)]
        if not len(turned):
            return
        with torch.no_grad():
            clean, adversarial = (net(images[turned]).argmax(1).tolist() for images in (x, found.worst))
        for i, before, after in zip(turned.tolist(), clean, adversarial, strict=True):
            self._sheet.append((x[i].float().cpu(), found.worst[i].float().cpu(), (int(y[i]), before, after)))

    def _gather(self, trainer: Trainer, part: Any) -> list[Any]:
        if trainer.world_size == 1:
            return [part]
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, part)
        return parts

    def _identify(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        """Return what must be equal in two tests whose images are counted together."""
        return provenance(trainer, module) | {
            "surrogate_sha256": sha256(Path(self.surrogate)) if self.surrogate else None,
            "curve_images": self.curve_images,
            "settings": plain(self.study.settings()),
            "attacks_sha256": identity_digest(self.study.attacks),
        }

    def _write(self, trainer: Trainer, *, complete: bool) -> dict[str, Any]:
        wanted = self._images_wanted(trainer)
        record = {"complete": complete, "images": len(self._outcomes), "images_wanted": wanted} | self._identity
        record |= {"device": trainer.strategy.root_device.type, "processes": trainer.world_size}
        record |= {"torch": torch.__version__} | robustness_record(
            self._outcomes,
            self._facts,
            attacks=self.study.attacks,
            seconds=self._seconds,
            class_names=self._class_names(trainer),
        )
        if self.folder:
            write_json(self.folder / "robustness.json", record)
            write_text(self.folder / "robustness.md", markdown(record))
        return record

    def _draw(self, trainer: Trainer, record: dict[str, Any]) -> None:
        if not self.folder:
            return
        path = self.folder / "robustness.png"
        write_figure(path, plot_robustness(record, self._sheet, self._class_names(trainer), title(record)))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(key="robustness", images=[str(path)])

    def _images_wanted(self, trainer: Trainer) -> int:
        there = len(trainer.test_dataloaders.dataset)  # type: ignore[union-attr]
        module: Any = trainer.lightning_module
        return min(module.test_images or there, there)

    def _class_names(self, trainer: Trainer) -> list[str]:
        names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        return list(names or map(str, range(int(self._outcomes["label"].max()) + 1)))

    def _tell(self, trainer: Trainer, part: str, results: PerImageResults) -> None:
        """Show which part of a batch begins, the accuracies so far, and the share of the work that is done."""
        if self._progress is None:
            return
        parts, known, wanted = self.study.passes(), len(self._outcomes), self._images_wanted(trainer)
        # the first batch is weighed by passes, the others by the seconds that the parts have taken
        weights = {name: self._seconds.get(name, 0.0) / known if known else float(parts[name]) for name in parts}
        names = list(parts)
        batch = len(results) * trainer.world_size * sum(weights[name] for name in names[: names.index(part)])
        work = (wanted - self._images_before) * sum(weights.values())
        done = (known - self._images_before) * sum(weights.values()) + batch
        both = PerImageResults.join([self._outcomes, results])
        self._progress.tell(
            f"{part.replace('/', ' ', 1)} ({names.index(part) + 1} of {len(names)})",
            clean=(int(both["clean"].sum()), len(both)),
            robust=(int(both.robust(*ROLES).sum()), len(both)),
            share=min(done / work, 1.0) if work else 0.0,
        )

    def _say_progress(self, trainer: Trainer) -> None:
        done, wanted = len(self._outcomes), self._images_wanted(trainer)
        pace = (time.monotonic() - self._begun) / max(1, done - self._images_before)
        left = f"about {pace * (wanted - done) / 60:.1f} min left" if done < wanted else "done"
        print(f"robustness: {done} of {wanted} images, {left}", flush=True)
