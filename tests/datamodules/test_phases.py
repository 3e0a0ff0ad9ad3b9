"""Image size and batch size that change from epoch to epoch, also after a resume and on several processes."""

import warnings
from pathlib import Path

import pytest
import torch
from photographs import write_photographs
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from datamodules import ImageNetFolder, Phase
from datamodules.phases import check_length
from lightning_modules.finished_epoch import finish_epoch

PLAN = [Phase(epochs=1, image_size=12, batch=2), Phase(epochs=2, image_size=16, batch=1.5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("phases") / "images", train=10)


class Recorder(LightningModule):
    """Keeps every training batch, and counts them in a weight."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.scale * batch[0].mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_load_checkpoint(self, checkpoint):
        finish_epoch(checkpoint)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(folder, **settings):
    wanted = {"image_size": 16, "batch_size": 4, "val_fraction": 0.2, "cache": folder.parent, "phases": PLAN}
    return ImageNetFolder(folder, **wanted | settings)


def fit(folder, *callbacks, ckpt_path=None, settings=None, **trainer):
    module = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    wanted = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1, "enable_checkpointing": keeps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            accelerator="cpu", use_distributed_sampler=False, callbacks=list(callbacks), **quiet | wanted | trainer
        ).fit(module, data(folder, **settings or {}), ckpt_path=ckpt_path)
    return module.seen


def test_each_phase_has_its_image_size_and_batch_size(folder):
    shapes = [tuple(x.shape) for x, _, _ in fit(folder)]
    assert shapes == [(8, 3, 12, 12)] * 3 + [(6, 3, 16, 16)] * 8
    assert data(folder).train_sizes == (12, 16)


class StopAfter(Callback):
    """Ends the run after a step as SIGTERM does, and saves the state between two steps."""

    def __init__(self, step, file):
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer, *_):
        trainer._signal_connector.received_sigterm = trainer.global_step == self.step

    def on_train_epoch_end(self, trainer, *_):
        trainer._signal_connector.received_sigterm = trainer.global_step == self.step

    def on_exception(self, trainer, *_):
        trainer.save_checkpoint(self.file)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """All batches of an uninterrupted run, and the folder of the checkpoints after each of its steps."""
    kept = tmp_path_factory.mktemp("whole")
    each = ModelCheckpoint(kept, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    return fit(folder, each), kept


# within the first phase, at its end, and within the second
@pytest.mark.parametrize(("step", "num_workers"), [(2, 0), (3, 0), (5, 0), (5, 2)])
@pytest.mark.parametrize("how", ["saved", "stopped"])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(folder, whole, tmp_path, step, num_workers, how):
    batches, kept = whole
    file = kept / f"step={step}.ckpt"
    if how == "stopped":
        file = tmp_path / "stopped.ckpt"
        with pytest.raises(SIGTERMException):
            fit(folder, StopAfter(step, file))
    resumed = fit(folder, ckpt_path=file, settings={"num_workers": num_workers})
    assert len(resumed) == len(batches) - step
    for first, second in zip(batches[step:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_processes_see_the_images_of_one_at_every_step(folder):
    found = data(folder)
    found.setup()

    def steps(rank, world_size, size):
        sampler = found._train_sampler().__class__(
            len(found.train_set), batch_size=size, seed=0, rank=rank, world_size=world_size
        )
        return [found._training_images()[index] for index in sampler]

    for one, *both in zip(steps(0, 1, 8), steps(0, 2, 4), steps(1, 2, 4), strict=True):
        together = [torch.cat(parts) for parts in zip(*both, strict=True)]
        order, same = one[2].argsort(), together[2].argsort()
        assert all(torch.equal(a[order], b[same]) for a, b in zip(one, together, strict=True))


@pytest.mark.parametrize(
    ("max_epochs", "message"),
    [
        (4, r"the phases of the data end before the run: 1 \+ 2 = 3 epochs, and trainer.max_epochs=4; set --trainer"),
        (2, "the phases of the data end after the run: .*trainer.max_epochs=2"),
    ],
)
def test_a_plan_of_another_length_than_the_run_is_refused(max_epochs, message):
    with pytest.raises(ValueError, match=message):
        check_length(PLAN, max_epochs)


def test_phases_need_loaders_that_are_made_anew(folder):
    with pytest.raises(ValueError, match="reload_dataloaders_every_n_epochs=1, got 0"):
        fit(folder, reload_dataloaders_every_n_epochs=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0, "image_size": 8}, "epochs of a phase must be >= 1, got 0"),
        ({"epochs": 1, "image_size": 0}, "image_size of a phase must be >= 1, got 0"),
        ({"epochs": 1, "image_size": 8, "batch": 0.0}, "batch of a phase is a multiple of batch_size, > 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Phase(**settings)


def test_a_batch_that_is_no_whole_number_is_refused(folder):
    with pytest.raises(ValueError, match=r"batch=1.5 of the phase at 16 pixels makes 4.5 images of batch_size=3"):
        data(folder, batch_size=3)


def test_a_later_phase_whose_batch_the_images_do_not_fill_is_refused_at_once(folder):
    plan = [*PLAN, Phase(epochs=1, image_size=16, batch=8)]
    with pytest.raises(ValueError, match="batch_size=32 is larger than the 24 training images"):
        data(folder, phases=plan).setup("fit")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ['--data.phases=[{"epochs": 15, "image_size": 32}]'],
            "ImageNetFolder trains on 32 pixels in one of its phases: ResNet50 takes 64 pixels or more, got 32",
        ),
        (["--trainer.max_epochs=20"], "the phases of the data end before the run: 6 + 6 + 3 = 15 epochs"),
    ],
)
def test_a_command_line_refuses_a_plan_that_does_not_fit_before_any_work(folder, tmp_path, refused, flags, message):
    flags = [f"--data.path={folder}", f"--run.dir={tmp_path / 'runs'}", "--model.net.width=1", *flags]
    assert message in refused(["fit", "--config=resnet50_relu_imagenet", "--config=imagenet_fast_at", *flags])
    assert not list(tmp_path.rglob("*.yaml"))
