"""The user's own images: a folder or an archive of image files."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.base import ImageDataModule
from datamodules.cache import check_writable, damaged, default_cache, load_tensors, peek_tensors, save_tensors
from datamodules.image_files import WantedFormat, decode_images, fingerprint
from datamodules.image_tensors import ImageTensors
from datamodules.layouts import find_images
from datamodules.stored_files import check_path


class ImageFolder(ImageDataModule):
    """Images in ``{train,test}/<class>/`` of a folder, ``.tar``, ``.tar.gz``, ``.tar.xz``, ``.tar.bz2`` or ``.zip``.

    They are read in place, as JPEG, PNG, WebP, BMP or PPM, and may lie one folder deeper. Classes are numbered
    alphabetically. Other layouts, each with a warning that says what was done:

    - ``{train,val}/<class>/``: ``val`` is the test set. Beside ``test``, ``val`` is not used.
    - TinyImageNet's folders: ``val`` is the test set, ``test`` has no labels, and the classes are named by their
      WordNet numbers.
    - ``<class>/`` alone: a fifth of the images becomes the test set, whatever the seed.

    Links are followed inside ``path`` and refused if they lead elsewhere. 16-bit grey images are scaled to 8 bits, an
    opaque alpha channel is dropped, EXIF orientation is applied; transparent, CMYK and 16-bit colour images are
    refused. Damage is found where a format has checksums: gzip, xz, bzip2, zip and PNG do, a plain tar and JPEG do not.

    The files are decoded once, and the uint8 tensors are kept in the cache under a name that changes with the files;
    nothing is written beside them. The cache may be deleted at any time.

    Args:
        path: the folder or archive.
        num_classes: how many classes there must be; None takes any number.
        in_channels: 1 (grey) or 3 (RGB, to which grey images are converted); None takes that of the first image.
        image_size: pixels of both sides, to which images of any other size or shape are resampled; None takes that of
            the first image, which all others must then have.
        cache: folder for the decoded images; None is ``$XDG_CACHE_HOME/kafnets`` or ``~/.cache/kafnets``.
        **kwargs: see :class:`~datamodules.base.ImageDataModule`.

    The files are read when the object is built, so that it knows its number of classes, channels and pixels; if all
    three are given, not before :meth:`prepare_data` or :meth:`setup`.

    Raises:
        ValueError: if an argument is out of its range, or if the layout or an image is not as required.
        FileNotFoundError: if there is nothing at ``path``.
        OSError: if a file is corrupt or the cache cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        image_size: int | None = None,
        cache: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        if in_channels not in (None, 1, 3):
            raise ValueError(f"in_channels must be 1 (grey) or 3 (RGB), got {in_channels}")
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {num_classes}")
        self.path = Path(path).expanduser()
        self.cache = default_cache() if cache is None else Path(cache).expanduser()
        self._wanted, self._wanted_classes = WantedFormat(in_channels, image_size), num_classes
        if num_classes is None or in_channels is None or image_size is None:
            found, self.in_channels, self.image_size = self._described()
            self.num_classes = num_classes or found
        else:
            self.num_classes, self.in_channels = num_classes, in_channels

    def prepare_data(self) -> None:
        """Decode the images into the cache, unless they are already there."""
        self._decoded()

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the decoded training and test images, and warn of what a user must know about their division."""
        file = self._decoded()
        stored = load_tensors(file)
        try:
            notes, train, test = stored["notes"], ImageTensors(**stored["train"]), ImageTensors(**stored["test"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(file, error) from error
        for note in notes:
            rank_zero_warn(note)
        return train, test

    def _described(self) -> tuple[int, int, int]:
        """Classes, channels and pixels of the files."""
        file = self._decoded()
        stored = peek_tensors(file)
        try:
            train = stored["train"]
            return len(train["class_names"]), *train["images"].shape[1:3]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(file, error) from error

    def _decoded(self) -> Path:
        check_path(self.path)
        name = self.path.resolve().name.split(".")[0]
        file = self.cache / f"{name}-{fingerprint(self.path, self._wanted)}.pt"
        if not file.exists():
            check_writable(self.cache)
            found = find_images(self.path)
            images = decode_images(self.path, found, self._wanted, num_classes=self._wanted_classes)
            save_tensors({"notes": found.notes, **{split: vars(each) for split, each in images.items()}}, file)
        return file
