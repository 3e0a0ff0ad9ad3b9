"""The base class of all data modules: images in memory or in files, a held-out split, batches in [0, 1]."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Generator
from torch.utils.data import DataLoader, Sampler

from datamodules.augment import Augment
from datamodules.image_tensors import ImageTensors
from datamodules.images import Batch, Images
from datamodules.samplers import EvalBatches, ShuffledBatches
from datamodules.seeding import keyed_generator
from datamodules.shared_memory import check_shared_memory
from datamodules.splits import interleave, stratified_split
from datamodules.transfer import free_memory

Batches = TypeVar("Batches", bound=ShuffledBatches)


class ImageDataModule(LightningDataModule, ABC):
    """Images for training, validation and test.

    Batches arrive on the device as ``(x (B, C, H, W) float32 in [0, 1], y (B,) int64, index (B,) int64)``; ``index``
    is the position in the training, validation or test set. Training batches are shuffled, full and augmented; their
    order is a function of (seed, epoch) and their augmentation of (seed, rank, epoch, batch) alone, so that a run
    resumed at any step sees the same batches as one that was not stopped.

    Validation images are held out of the training images, in proportion from every class; the choice depends on the
    labels, ``seed`` and ``val_fraction`` alone. The test set is never used to choose anything. Both sets are ordered so
    that every prefix holds the classes in proportion (``index < k`` is a fair sample); the order of the test set does
    not depend on ``seed``, so that all runs are tested on the same prefix.

    A subclass has ``num_classes``, ``in_channels`` and ``image_size`` (pixels) as soon as it is built, so that a
    network can be built to fit, and implements :meth:`load`. After :meth:`setup` there are ``train_set``, ``val_set``,
    ``test_set`` and ``class_names``.

    Args:
        batch_size: training images per batch and process, >= 1.
        eval_batch_size: largest number of validation or test images per batch and process, >= 1.
        val_fraction: share of the training images held out for validation, in (0, 1).
        image_size: resample all images to this many pixels on both sides, >= 1; None keeps their size.
        augment: random change of the training images; None leaves them as they are.
        seed: seed of the split, the order and the augmentation.
        num_workers: processes that prepare batches; the images are in memory, so 0 is usually fastest.
        device: where the uint8 images of a loader are kept. ``auto``: on the GPU of the trainer, if they take at most a
            quarter of its free memory and ``num_workers`` is 0, and otherwise in pinned memory; ``cpu``: never on the
            GPU. Batches do not depend on it.

    Raises:
        ValueError: if an argument is out of its range; from :meth:`setup`, if the images are not what was declared or
            too few, or if Lightning would shard the data a second time.
    """

    num_classes: int
    in_channels: int
    image_size: int
    class_names: tuple[str, ...]
    train_set: Images
    val_set: Images
    test_set: Images

    def __init__(
        self,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        val_fraction: float = 0.1,
        image_size: int | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        num_workers: int = 0,
        device: Literal["auto", "cpu"] = "auto",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie strictly between 0 and 1, got {val_fraction}")
        self.batch_size, self.eval_batch_size, self.val_fraction = batch_size, eval_batch_size, val_fraction
        if device not in ("auto", "cpu"):
            raise ValueError(f"device must be auto or cpu, got {device!r}; the accelerator is that of the trainer")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be >= 1 pixel, got {image_size}")
        self._resize = image_size is not None
        if image_size is not None:
            self.image_size = image_size
        self.augment, self.seed, self.num_workers = augment, seed, num_workers
        self.device = device
        self._is_loaded = False

    @abstractmethod
    def load(self) -> tuple[Images, Images]:
        """Return all training images, including those for validation, and all test images."""

    def setup(self, stage: str | None = None) -> None:
        """Load and split the images once, and check all settings before the first step."""
        if self.trainer is not None:
            self.check_trainer(self.trainer, fitting=stage == "fit")
        if not self._is_loaded:
            self._load_all()
        if stage in (None, "fit"):
            self._train_sampler()
        for images in (self.val_set, self.test_set):
            self._eval_sampler(images)

    def _load_all(self) -> None:
        train, test = self.load()
        if self._resize:
            train, test = train.resized(self.image_size), test.resized(self.image_size)
        for images in (train, test):
            self._check_declared(images)
        if train.class_names != test.class_names:
            raise ValueError(f"training classes {train.class_names} differ from test classes {test.class_names}")
        rest, held_out = stratified_split(train.labels, self.val_fraction, keyed_generator("split", self.seed))
        self.train_set, self.val_set = train.subset(rest), train.subset(held_out)
        self.test_set = test.subset(interleave(test.labels, keyed_generator("test order")))
        self.class_names = train.class_names
        self._is_loaded = True

    def _check_declared(self, images: Images) -> None:
        channels, height, width = images.shape
        if height != width:
            raise ValueError(f"{type(self).__name__} needs square images, got {height} x {width} pixels")
        for name, found in (
            ("num_classes", len(images.class_names)),
            ("in_channels", channels),
            ("image_size", height),
        ):
            if (declared := getattr(self, name)) != found:
                raise ValueError(
                    f"{type(self).__name__} has {name}={found}, not the {declared} declared; set {name}={found}"
                )

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Heights and widths in pixels that training images have in the course of a training."""
        return (self.image_size,)

    def check_trainer(self, trainer: Trainer, *, fitting: bool) -> None:
        """Raise ``ValueError`` if the data cannot work with the trainer's settings; nothing is read for it."""
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                f"{type(self).__name__} gives each of the {trainer.world_size} processes its own share of the "
                "images, and Lightning would divide them a second time; set use_distributed_sampler=False on the "
                "Trainer"
            )
        if overfit := trainer.overfit_batches:  # type: ignore[attr-defined]  # set by a connector of Trainer
            raise ValueError(
                f"overfit_batches={overfit} makes Lightning replace the sampler, which "
                f"{type(self).__name__} does not allow; use limit_train_batches and limit_val_batches"
            )
        check_shared_memory(
            self.in_channels * max(self.largest_batch if fitting else 0, self.eval_batch_size * self.image_size**2),
            num_workers=self.num_workers,
            processes=trainer.num_devices,
        )

    @property
    def largest_batch(self) -> int:
        """Pixels of the largest training batch of a process."""
        return self.batch_size * self.image_size**2

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def _accelerator(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _fits(self, images: ImageTensors, device: torch.device) -> bool:
        """Whether the images of a loader are kept on the GPU."""
        if self.device == "cpu" or self.num_workers or device.type != "cuda":
            return False
        return images.images.nbytes <= free_memory(device) / 4

    def _training_images(self) -> Images:
        """Return what the loader of training batches reads; a subclass may return a random view of it."""
        return self.train_set

    def _train_sampler(self) -> ShuffledBatches:
        return self._sampler(self.batch_size, ShuffledBatches)

    def _sampler(self, batch_size: int, kind: type[Batches]) -> Batches:
        return kind(
            len(self.train_set),
            batch_size=batch_size,
            seed=self.seed,
            rank=self._rank,
            world_size=self._world_size,
        )

    def _eval_sampler(self, images: Images) -> EvalBatches:
        return EvalBatches(len(images), batch_size=self.eval_batch_size, rank=self._rank, world_size=self._world_size)

    def _loader(self, images: Images, sampler: Sampler, kind: "type[_LazyLoader] | None" = None) -> "_LazyLoader":
        device = self._accelerator
        resident = isinstance(images, ImageTensors) and self._fits(images, device)
        return (kind or _LazyLoader)(
            images.to(device) if resident else images,  # type: ignore[attr-defined, arg-type]
            sampler=sampler,
            batch_size=None,
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=device.type == "cuda" and not resident,
            generator=Generator().manual_seed(self.seed),  # otherwise it would draw from the global generator
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled full batches of the training set."""
        loader = self._loader(self._training_images(), self._train_sampler(), _TrainLoader)
        loader.trained = self._batches_trained  # type: ignore[attr-defined]
        return loader

    def _batches_trained(self) -> int:
        if self.trainer is None:
            return 0
        current: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return current.processed  # completed counts the batch at hand only after a checkpoint is saved

    def val_dataloader(self) -> DataLoader:
        """Each validation image once over all processes."""
        return self._loader(self.val_set, self._eval_sampler(self.val_set))

    def test_dataloader(self) -> DataLoader:
        """Each test image once over all processes."""
        return self._loader(self.test_set, self._eval_sampler(self.test_set))

    def predict_dataloader(self) -> DataLoader:
        """Return the batches of :meth:`test_dataloader`."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 images into float32 in [0, 1] on their device, and augment them if this is a training step."""
        images, labels, indices = batch
        x = images.float() / 255
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            x = self.augment(x, self._augment_generator())
        return x, labels, indices

    def _augment_generator(self) -> Generator:
        assert self.trainer is not None
        # Lightning increases this count after the transfer, so here it is the index of this batch.
        batch_index = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return keyed_generator("augment", self.seed, self._rank, self.trainer.current_epoch, batch_index)


class _LazyLoader(DataLoader):
    """A DataLoader that starts its sampler only when the first batch is requested.

    Lightning creates the first iterator of a resumed run before it calls ``set_epoch``; workers would already fetch
    batches in the order of another epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


class _TrainLoader(_LazyLoader):
    """The loader of training batches, which can go on in the middle of an epoch.

    Lightning calls ``state_dict`` when it saves a checkpoint, and ``load_state_dict`` when it resumes in the middle of
    an epoch.
    """

    trained: Callable[[], int]  # number of batches of this epoch that were trained on

    def state_dict(self) -> dict[str, int]:
        """Return the place in the epoch, and the number of its batches, which the next epoch may not share."""
        return {"batches": self.trained(), "of": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from that place; after the last batch, with the next epoch.

        Raises:
            ValueError: if the rest of the epoch no longer has the images that were left.
        """
        sampler: Any = self.sampler
        of = state.get("of", len(sampler))
        sampler.start = state["batches"] % of
        if sampler.start and of != len(sampler):
            raise ValueError(
                f"the checkpoint was saved after {sampler.start} of {of} batches of an epoch that now has "
                f"{len(sampler)}; resume with the data, batch size, phases and number of processes of the run, or from "
                "a checkpoint of the end of an epoch"
            )


def _identity(batch: Any) -> Any:
    return batch
