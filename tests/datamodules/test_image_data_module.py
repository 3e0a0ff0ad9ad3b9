import warnings
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_images import CLASSES, Tiny

from datamodules import CropFlip, ImageDataModule, ImageTensors, base


class Recorder(LightningModule):
    """Keeps every batch it is given."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.seen = {"fit": [], "validate": [], "sanity": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen["fit"].append(batch)
        return self.scale * batch[0].mean()

    def validation_step(self, batch, batch_idx):
        self.seen["sanity" if self.trainer.sanity_checking else "validate"].append(batch)
        self.log("val", 0.0)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    kwargs = {"callbacks": [], "enable_checkpointing": bool(kwargs.get("callbacks")), **quiet, **kwargs}
    return Trainer(accelerator="cpu", use_distributed_sampler=False, **kwargs)


def fit(data, *, ckpt_path=None, **kwargs):
    module = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(**kwargs).fit(module, data, ckpt_path=ckpt_path)
    return module.seen


def tiny(**kwargs):
    return Tiny(
        **{"batch_size": 8, "eval_batch_size": 4, "val_fraction": 0.2, "augment": CropFlip(padding=1), **kwargs}
    )


def originals(images, indices):
    return images.images[indices].float() / 255


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_setup_splits_off_a_stratified_validation_set():
    data = tiny()
    data.setup()
    assert data.class_names == CLASSES
    assert torch.bincount(data.train_set.labels).tolist() == [16] * 3
    assert torch.bincount(data.val_set.labels).tolist() == [4] * 3
    pixels = torch.cat([part.images[:, 0, 0, 0] for part in (data.train_set, data.val_set)])
    assert pixels.sort().values.tolist() == list(range(60))


@pytest.mark.parametrize("name", ["val_set", "test_set"])
def test_every_prefix_of_an_evaluation_set_is_balanced(name):
    data = tiny()
    data.setup()
    labels = getattr(data, name).labels
    for k in range(1, len(labels) + 1):
        counts = torch.bincount(labels[:k], minlength=3)
        assert int(counts.max() - counts.min()) <= 1


def test_the_seed_changes_the_validation_split_and_not_the_test_order():
    first, again, other = tiny(seed=0), tiny(seed=0, batch_size=4), tiny(seed=1)
    for data in (first, again, other):
        data.setup()
    assert torch.equal(first.val_set.images, again.val_set.images)
    assert not torch.equal(first.val_set.images, other.val_set.images)
    assert torch.equal(first.test_set.images, other.test_set.images)


def test_batches_have_the_documented_contents():
    data = tiny()
    seen = fit(data, max_epochs=1)
    module = Recorder()
    trainer().test(module, data, verbose=False)
    trainer().predict(module, data)
    seen |= {"test": module.seen["test"], "predict": module.seen["predict"]}
    for name, images, count in (
        ("fit", data.train_set, 48),
        ("sanity", data.val_set, 8),
        ("validate", data.val_set, 12),
        ("test", data.test_set, 21),
        ("predict", data.test_set, 21),
    ):
        x, y, index = (torch.cat(parts) for parts in zip(*seen[name], strict=True))
        assert x.dtype == torch.float32
        assert x.shape == (count, 1, 4, 4)
        assert y.dtype == index.dtype == torch.int64
        assert 0 <= float(x.min()) <= float(x.max()) == 1
        assert torch.equal(y, images.labels[index])
        assert len(index.unique()) == count
        assert torch.equal(x, originals(images, index)) is (name != "fit")


def test_augmentation_changes_from_epoch_to_epoch_and_a_rerun_repeats_it():
    first = fit(tiny(), max_epochs=2)["fit"]
    assert same(first, fit(tiny(), max_epochs=2)["fit"])
    epochs = [
        torch.cat([x for x, _, _ in part])[torch.cat([i for _, _, i in part]).argsort()]
        for part in (first[:6], first[6:])
    ]
    assert not torch.equal(*epochs)
    assert not same(first, fit(tiny(seed=1), max_epochs=2)["fit"])


def test_augmentation_differs_between_batches_of_the_same_images():
    data = tiny(batch_size=48)
    data.setup()
    data.trainer = stub()
    batch = data.train_set[torch.arange(48)]
    progress = data.trainer.fit_loop.epoch_loop.batch_progress.current
    outputs = []
    for rank, epoch, ready in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        data.trainer.global_rank, data.trainer.current_epoch, progress.ready = rank, epoch, ready
        outputs.append(data.on_after_batch_transfer(batch, 0)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not any(torch.equal(outputs[0], other) for other in outputs[2:])


def test_without_augment_training_images_are_the_originals():
    data = tiny(augment=None)
    for x, _, index in fit(data, max_epochs=1)["fit"]:
        assert torch.equal(x, originals(data.train_set, index))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("at_validation", [False, True])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_run(tmp_path, num_workers, at_validation):
    whole = fit(tiny(num_workers=num_workers), max_epochs=3)["fit"]
    # Lightning's counters differ between its two ways of saving at the end of an epoch.
    save = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_on_train_epoch_end=not at_validation)
    fit(tiny(), max_epochs=2, callbacks=[save])
    rest = fit(tiny(num_workers=num_workers), max_epochs=3, ckpt_path=tmp_path / "epoch=1.ckpt")["fit"]
    assert same(rest, whole[12:])


def test_a_run_is_not_resumed_within_an_epoch_of_other_batches():
    data = tiny()
    data.setup()
    loader = data.train_dataloader()
    loader.load_state_dict({"batches": 9, "of": 9})  # the end of an epoch, whatever its batches were
    assert len(list(loader)) == len(loader) != 9
    with pytest.raises(ValueError, match=r"after 4 of 9 batches of an epoch that now has 6; resume with"):
        loader.load_state_dict({"batches": 4, "of": 9})


def test_loading_does_not_use_the_global_generator():
    data = tiny()
    data.setup()
    before = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(before, torch.get_rng_state())


def stub(*, world_size=1, use_distributed_sampler=False, overfit_batches=0.0, device="cpu"):
    current = SimpleNamespace(ready=0)
    epoch_loop = SimpleNamespace(batch_progress=SimpleNamespace(current=current))
    return SimpleNamespace(
        training=True,
        current_epoch=0,
        global_rank=0,
        world_size=world_size,
        overfit_batches=overfit_batches,
        num_devices=world_size,
        strategy=SimpleNamespace(root_device=torch.device(device)),
        fit_loop=SimpleNamespace(epoch_loop=epoch_loop),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=use_distributed_sampler),
    )


@pytest.mark.parametrize(
    ("device", "free", "settings", "expected"),
    [
        ("cpu", 0, {}, ("cpu", False)),
        ("cuda", 4 * 48 * 16, {}, ("meta", False)),
        ("cuda", 4 * 48 * 16 - 1, {}, ("cpu", True)),
        ("cuda", 4 * 48 * 16, {"device": "cpu"}, ("cpu", True)),
        ("cuda", 4 * 48 * 16, {"num_workers": 1}, ("cpu", True)),
    ],
)
def test_images_are_kept_on_the_gpu_of_the_trainer_if_they_fit(device, free, settings, expected, monkeypatch):
    monkeypatch.setattr(base, "free_memory", lambda _: free)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a trainer on the CPU of a machine with a GPU
    move = ImageTensors.to
    monkeypatch.setattr(ImageTensors, "to", lambda images, _: move(images, torch.device("meta")))
    data = tiny(**settings)
    data.trainer = stub(device=device)
    data.setup("fit")
    loader = data.train_dataloader()
    assert (loader.dataset.images.device.type, loader.pin_memory) == expected
    if expected[0] == "meta":
        images, labels, indices = next(iter(loader))
        assert images.shape == (8, 1, 4, 4) and {images.device, labels.device, indices.device} == {torch.device("meta")}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_divide_the_images(world_size):
    for stage, name, count in (("fit", "train_set", 48), ("validate", "val_set", 12), ("test", "test_set", 21)):
        indices = []
        for rank in range(world_size):
            data = tiny()
            data.trainer = stub(world_size=world_size)
            data.trainer.global_rank = rank
            data.setup(stage)
            loader = {"fit": data.train_dataloader, "validate": data.val_dataloader, "test": data.test_dataloader}[
                stage
            ]
            indices.append(torch.cat([index for _, _, index in loader()]))
        assert torch.equal(torch.cat(indices).sort().values, torch.arange(len(getattr(data, name))))
        assert len(torch.cat(indices)) == count


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be >= 1, got 0"),
        ({"device": "cuda"}, "device must be auto or cpu, got 'cuda'"),
        ({"num_workers": -1}, "num_workers must be >= 0, got -1"),
        ({"val_fraction": 0.0}, "val_fraction must lie strictly between 0 and 1, got 0.0"),
        ({"val_fraction": 1.0}, "val_fraction must lie strictly between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Tiny(**kwargs)


def test_too_small_a_validation_split_is_refused():
    with pytest.raises(ValueError, match="leaves the held-out part without an image of class"):
        tiny(val_fraction=0.02).setup()


def test_a_batch_larger_than_the_training_set_is_refused_before_anything_runs():
    module = Recorder()
    with pytest.raises(ValueError, match="batch_size=49 is larger than the 48 training images; use batch_size <= 48"):
        trainer(max_epochs=1).fit(module, tiny(batch_size=49))
    assert module.seen["sanity"] == []


@pytest.mark.parametrize(
    ("name", "declared", "found"), [("num_classes", 4, 3), ("in_channels", 3, 1), ("image_size", 8, 4)]
)
def test_images_that_are_not_as_declared_are_refused(name, declared, found):
    data = tiny()
    setattr(data, name, declared)
    with pytest.raises(ValueError, match=f"Tiny has {name}={found}, not the {declared} declared; set {name}={found}"):
        data.setup()


def test_all_images_are_resampled_to_the_size_that_is_asked_for():
    data, plain = tiny(image_size=6), tiny()
    data.setup(), plain.setup()
    assert data.image_size == 6 and Tiny.image_size == 4
    for name in ("train_set", "val_set", "test_set"):
        found, source = getattr(data, name).images, getattr(plain, name).images
        exact = torch.nn.functional.interpolate(source.double(), (6, 6), mode="bilinear", antialias=True)
        assert found.dtype == torch.uint8 and (found - exact).abs().max() <= 1
    with pytest.raises(ValueError, match="image_size must be >= 1 pixel, got 0"):
        tiny(image_size=0)


def test_a_second_sharding_by_lightning_is_refused():
    data = tiny()
    data.trainer = stub(world_size=2, use_distributed_sampler=True)
    with pytest.raises(ValueError, match="set use_distributed_sampler=False"):
        data.setup()


def test_overfit_batches_is_refused():
    data = tiny()
    data.trainer = stub(overfit_batches=1)
    with pytest.raises(ValueError, match=r"overfit_batches=1 .* use limit_train_batches"):
        data.setup()


def test_load_has_to_be_implemented():
    with pytest.raises(TypeError, match="abstract"):
        ImageDataModule()
