"""Tell from the names of files which are training and test images, and of which class."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from datamodules.links import Refused
from datamodules.seeding import keyed_generator
from datamodules.splits import TEST_FRACTION, stratified_split
from datamodules.stored_files import SPLITS, stored_files

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm")
EXPECTED = (
    "expected [one folder/]{train,test}/<class>/<image>, with val/ in place of test/ if there is none, or "
    f"<class>/<image> alone, or TinyImageNet's folders; an image ends in {', '.join(IMAGE_SUFFIXES)}"
)


class ImageFile(NamedTuple):
    """One image: its class, its name below the data set's path, and its content or the file that holds it."""

    class_name: str
    name: str
    content: bytes | Path

    def read(self) -> bytes:
        """Return the encoded image."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class ImageSet(NamedTuple):
    """The images of a data set, sorted by name, and what a user must know about how they were divided."""

    train: list[ImageFile]
    test: list[ImageFile]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def find_images(path: Path) -> ImageSet:
    """Find the images of both splits in a folder or an archive.

    Files outside ``train``, ``test`` and ``val`` are ignored, and so are names that begin with a dot; every other file
    must be an image of a class. Without these three folders, every folder is a class, and a fifth of the images become
    the test set, in proportion from every class and always the same ones.

    Returns:
        The images; classes in alphabetical order.

    Raises:
        ValueError: if the layout is not as expected.
        OSError: if an archive is corrupt.
    """
    stored = {tuple(name.split("/")): content for name, content in stored_files(path).items()}
    if all(_split_at(parts) is None for parts in stored):
        return _divide(path, _classes_alone(path, stored))
    found: dict[str, list[ImageFile]] = {split: [] for split in SPLITS}
    tops: set[str] = set()
    annotations: ImageFile | None = None
    for parts, content in stored.items():
        start = _split_at(parts)
        if start is None or (len(parts) == start + 1 and not isinstance(content, Refused)):
            continue
        file = _usable(path, parts, content)
        match parts[start:]:
            case ("val", "val_annotations.txt"):
                annotations = file
            case (_, class_name, boxes) if boxes == f"{class_name}_boxes.txt":
                pass
            case (split, class_name, image) | (split, class_name, "images", image) if _is_image(image):
                found[split].append(file._replace(class_name=class_name))
                tops.add("/".join((*parts[:start], "")))
            case _:
                raise ValueError(f"{path} holds {file.name}; {EXPECTED}")
    _check_one_set(path, tops)
    if annotations:
        found["val"] = labelled(path, found["val"], annotations)
    return _choose_test_set(path, found)


def _split_at(parts: tuple[str, ...]) -> int | None:
    return next((i for i, part in enumerate(parts[:2]) if part in SPLITS), None)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _usable(path: Path, parts: tuple[str, ...], content: bytes | Path | Refused) -> ImageFile:
    if isinstance(content, Refused):
        raise ValueError(
            f"{path}: {content.reason}; delete it, or put the files themselves in its place (cp -rL and "
            "tar --dereference copy what links lead to)"
        )
    return ImageFile("", "/".join(parts), content)


def _check_one_set(path: Path, folders: set[str]) -> None:
    if len(different := sorted(folders)) > 1:
        raise ValueError(
            f"{path} holds more than one data set: {different[0] or './'}, {different[1]}; give the path of one"
        )


def labelled(path: Path, images: list[ImageFile], annotations: ImageFile) -> list[ImageFile]:
    """Return ``images`` with the classes of TinyImageNet's ``val_annotations.txt`` for those of ``val/images``.

    Raises:
        ValueError: if the two do not fit together.
    """
    if all(image.class_name != "images" for image in images):
        return images  # they were moved into folders of their classes, as many tutorials do
    where = f"{path}: {annotations.name}"
    classes: dict[str, str] = {}
    for number, line in enumerate(annotations.read().decode(errors="replace").splitlines(), 1):
        name, _, rest = line.partition("\t")
        class_name = rest.partition("\t")[0].strip()
        if not class_name or classes.setdefault(name, class_name) != class_name:
            raise ValueError(f"{where}, line {number}: expected a new image, a tab and its class, got {line!r}")
    stored = {image.name.rpartition("/")[2] for image in images if image.class_name == "images"}
    if difference := stored ^ classes.keys():
        raise ValueError(
            f"{where} names {len(classes)} images, and val/images holds {len(stored)}; only one of them has "
            f"{min(difference)}"
        )
    return [
        image._replace(class_name=classes[image.name.rpartition("/")[2]]) if image.class_name == "images" else image
        for image in images
    ]


def _choose_test_set(path: Path, found: dict[str, list[ImageFile]]) -> ImageSet:
    train, test, val = (found[split] for split in SPLITS)
    held_out = "validation images are held out of train/ (val_fraction)"
    notes = []
    if val and {file.class_name for file in test} == {"images"} and "images" not in _class_names(train):
        notes.append(f"{path}: the {len(test)} images in test/images have no labels and are not used")
        test = []
    if test and val:
        notes.append(f"{path}: the {len(val)} images in val/ are not used; test/ is the test set, and {held_out}")
    elif val:
        notes.append(f"{path} has no labelled test/: the {len(val)} images in val/ are the test set, and {held_out}")
    second, test = ("test", test) if test else ("val", val)
    for folders, files in (("train/", train), ("test/ or val/", test)):
        if not files:
            raise ValueError(f"{path} has no images in {folders}; {EXPECTED}")
    in_train, in_test = _class_names(train), _class_names(test)
    if difference := sorted({*in_train} ^ {*in_test}):
        raise ValueError(
            f"{path}: class {difference[0]!r} is in only one of train/ and {second}/; both need every class, but "
            f"train/ has {describe_classes(in_train)} and {second}/ has {describe_classes(in_test)}; in only one of "
            f"them: {_first_ten(difference)}"
        )
    return ImageSet(train, test, _at_least_two(path, in_train), tuple(notes))


def _classes_alone(path: Path, stored: dict[tuple[str, ...], bytes | Path | Refused]) -> list[ImageFile]:
    depth = max((len(parts) for parts in stored if _is_image(parts[-1])), default=0)
    images = []
    for parts, content in stored.items():
        file = _usable(path, parts, content)
        if _is_image(file.name) or len(parts) >= depth > 0:
            if not _is_image(file.name) or len(parts) != depth or depth not in (2, 3):
                raise ValueError(f"{path} holds {file.name}; {EXPECTED}")
            images.append(file._replace(class_name=parts[-2]))
    if not images:
        raise ValueError(f"{path} has no images in train/; {EXPECTED}")
    _check_one_set(path, {"/".join((*file.name.split("/")[:-2], "")) for file in images})
    return images


def _divide(path: Path, images: list[ImageFile]) -> ImageSet:
    class_names = _at_least_two(path, _class_names(images))
    number = {name: i for i, name in enumerate(class_names)}
    labels = torch.tensor([number[image.class_name] for image in images])
    try:
        rest, held_out = stratified_split(labels, TEST_FRACTION, keyed_generator("image folder test set"))
    except ValueError as error:
        count, smallest = min((int(count), name) for count, name in zip(labels.bincount(), class_names, strict=True))
        raise ValueError(
            f"{path} has neither train/ nor test/, and class {smallest!r} has too few images ({count}) to hold out "
            f"{TEST_FRACTION:.0%} of them as a test set; add images or make the folders train/ and test/"
        ) from error
    note = (
        f"{path} has neither train/ nor test/: {len(held_out)} of its {len(images)} images are held out as the test "
        "set, in proportion from every class and the same ones for every seed"
    )
    train, test = ([images[i] for i in part.sort().values.tolist()] for part in (rest, held_out))
    return ImageSet(train, test, class_names, (note,))


def _class_names(files: Iterable[ImageFile]) -> tuple[str, ...]:
    return tuple(sorted({file.class_name for file in files}))


def _at_least_two(path: Path, class_names: tuple[str, ...]) -> tuple[str, ...]:
    if len(class_names) < 2:
        raise ValueError(f"{path} holds images of one class only, {class_names[0]!r}; a classifier needs two or more")
    return class_names


def describe_classes(names: Sequence[str]) -> str:
    """Return their number and the first ten names."""
    return f"{len(names)} classes ({_first_ten(names)})"


def _first_ten(names: Sequence[str]) -> str:
    return ", ".join((*names[:10], *["..."][: len(names) > 10]))
