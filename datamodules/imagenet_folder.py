"""ImageNet, or any set of photographs that is too large for memory, in folders of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from datamodules.base import ImageDataModule
from datamodules.cache import default_cache
from datamodules.checked_files import check_images, index_file, load_index
from datamodules.class_folders import find_classes
from datamodules.crops import CentreCrop
from datamodules.file_images import FileImages
from datamodules.phases import Phase, check_length, phase_at
from datamodules.samplers import DatedBatches


class ImageNetFolder(ImageDataModule):
    """Images in ``{train,val}/<class>/``, decoded by worker processes while the network trains.

    ``val`` is the test set; validation images are held out of ``train``. TinyImageNet's folders are read as well.
    Links are followed.

    In training, each image is cropped at random, resized and mirrored at random (:func:`~datamodules.crops.random_box`)
    by numbers that depend on (seed, epoch, position of the image in the training set) alone: neither batch size nor the
    numbers of workers and processes change them. In evaluations, the shorter side is resized to ``shorter_side``
    pixels, and the middle ``image_size`` x ``image_size`` are shown.

    Before the first use, every image is decoded once, on all cores, and the result is remembered in an index in the
    cache; later, only files whose size or time has changed are decoded again. Grey, palette, CMYK and 16-bit grey
    images become RGB, EXIF orientation is applied, the name's ending need not be the format; damaged, transparent,
    animated and 16-bit colour images are refused by name.

    Args:
        path: the folder that holds ``train`` and ``val``.
        classes: a text file with the names of the classes to use, one per line; None uses all.
        num_classes: how many classes there must be; None takes any number. If it is given, no file is read before
            :meth:`prepare_data`.
        image_size: height and width of evaluation images in pixels, and of training images where there are no phases.
        shorter_side: see above, >= ``image_size``; None is 256/224 of it.
        phases: image size and batch size in training from epoch to epoch, see :class:`~datamodules.phases.Phase`; None
            trains on ``image_size`` with ``batch_size``. With more than one, the trainer needs
            ``reload_dataloaders_every_n_epochs=1``.
        min_area: smallest share of an image that a random crop shows, in (0, 1].
        cache: folder for the index; None is ``$XDG_CACHE_HOME/kafnets`` or ``~/.cache/kafnets``.
        **kwargs: see :class:`~datamodules.base.ImageDataModule`; ``augment`` comes on top of crop and flip.

    Raises:
        ValueError: if an argument is out of its range, if the classes are not as required, or if images cannot be
            used; from :meth:`check_trainer`, if the phases do not fit the trainer.
        FileNotFoundError: if a folder or the list of classes is missing.
        OSError: if the index cannot be used.
    """

    in_channels = 3

    def __init__(
        self,
        path: str | Path,
        *,
        classes: str | Path | None = None,
        num_classes: int | None = None,
        image_size: int = 224,
        shorter_side: int | None = None,
        phases: Sequence[Phase] | None = None,
        min_area: float = 0.08,
        cache: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {num_classes}")
        if shorter_side is not None and shorter_side < image_size:
            raise ValueError(f"shorter_side must be >= image_size={image_size}, got {shorter_side}")
        if not 0 < min_area <= 1:
            raise ValueError(f"min_area must lie in (0, 1], got {min_area}")
        if phases is not None and not phases:
            raise ValueError("phases is empty; give at least one, or leave it out")
        self.path = Path(path).expanduser()
        self.classes = None if classes is None else Path(classes).expanduser()
        self.cache = default_cache() if cache is None else Path(cache).expanduser()
        self.shorter_side = shorter_side or round(image_size * 256 / 224)
        self.phases, self.min_area = phases, min_area
        self._plan = list(phases or [Phase(epochs=1, image_size=image_size)])
        self._batch_sizes = {phase: phase.batch_size(self.batch_size) for phase in self._plan}
        self._wanted_classes = num_classes
        self.num_classes = num_classes or len(find_classes(self.path, self.classes))
        self._index: Path | None = None

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Height and width of training images in pixels, one per phase."""
        return tuple(phase.image_size for phase in self._plan)

    @property
    def largest_batch(self) -> int:
        """Pixels of the largest training batch of a process."""
        return max(size * phase.image_size**2 for phase, size in self._batch_sizes.items())

    def check_trainer(self, trainer: Trainer, *, fitting: bool) -> None:
        """Check that the phases last as long as the run, and that batches fit into shared memory."""
        super().check_trainer(trainer, fitting=fitting)
        if not fitting or not self.phases or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        check_length(self.phases, trainer.max_epochs or 0)
        reload: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        if len(self.phases) > 1 and reload != 1:
            raise ValueError(
                "phases change the number of batches from epoch to epoch; set "
                f"--trainer.reload_dataloaders_every_n_epochs=1, got {reload}"
            )

    def prepare_data(self) -> None:
        """Decode every image that is new or has changed, once per machine, and write the index."""
        check_images(self.path, self._class_names(), self._index_file())

    def setup(self, stage: str | None = None) -> None:
        """Read the index, split the images, and check that they fill a batch of every phase."""
        super().setup(stage)
        if stage in (None, "fit"):
            for size in self._batch_sizes.values():
                self._sampler(size, DatedBatches)

    def load(self) -> tuple[FileImages, FileImages]:
        """Return the training and the test images."""
        file = self._index_file()
        if not file.exists() or not load_index(file).table.is_checked:  # such as that of a check that was stopped
            self.prepare_data()
        files = load_index(file)
        view = CentreCrop(self.image_size, self.shorter_side)
        train, test = (
            FileImages(self.path, files, part.nonzero().flatten(), view)
            for part in (~files.table.is_test, files.table.is_test)
        )
        return train, test

    def _class_names(self) -> tuple[str, ...]:
        names = find_classes(self.path, self.classes)
        if self._wanted_classes not in (None, len(names)):
            raise ValueError(
                f"{self.classes or self.path} has num_classes={len(names)}, not the {self._wanted_classes} declared; "
                f"set num_classes={len(names)}"
            )
        return names

    def _index_file(self) -> Path:
        if self._index is None:
            self._index = index_file(self.cache, self.path, self._class_names())
        return self._index

    def _phase(self) -> Phase:
        return phase_at(self._plan, 0 if self.trainer is None else self.trainer.current_epoch)

    def _training_images(self) -> FileImages:
        train: Any = self.train_set
        return train.in_training(self._phase().image_size, min_area=self.min_area, seed=self.seed)

    def _train_sampler(self) -> DatedBatches:
        return self._sampler(self._batch_sizes[self._phase()], DatedBatches)
