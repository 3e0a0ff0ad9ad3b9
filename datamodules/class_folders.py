"""ImageNet's folders: the classes and the image files of ``train`` and ``val``, by their names alone."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from datamodules.layouts import IMAGE_SUFFIXES, ImageFile, describe_classes, labelled

EXPECTED = (
    "expected train/<class>/<image> and val/<class>/<image>, or TinyImageNet's folders; an image ends in "
    f"{', '.join(IMAGE_SUFFIXES)}, in small or capital letters"
)
_ANNOTATIONS = "val_annotations.txt"


def find_classes(path: Path, chosen: Path | None = None) -> tuple[str, ...]:
    """Return the names of the classes in alphabetical order, without looking at any image.

    Args:
        path: the folder that holds ``train`` and ``val``.
        chosen: a text file with one class per line, to use only these; empty lines and what follows ``#`` are ignored.

    Raises:
        FileNotFoundError: if ``path``, ``train``, ``val`` or ``chosen`` is missing.
        ValueError: if ``train`` and ``val`` differ in their classes, ``chosen`` names others or one twice, or there are
            fewer than two.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; unpack it, or use the data module ImageFolder, which reads archives")
    train, val = (_folders(path / split) for split in ("train", "val"))
    if (path / "val" / _ANNOTATIONS).is_file():
        val = sorted({file.class_name for file in _tiny_validation(path)})
    if not val:
        raise ValueError(
            f"{path / 'val'} has no folders of classes; move its images into one folder per class, as the ImageNet "
            f"example of PyTorch does by its script extract_ILSVRC.sh: {EXPECTED}"
        )
    if difference := sorted({*train} ^ {*val}):
        raise ValueError(
            f"{path}: class {difference[0]!r} is in only one of train/ and val/; both need every class, but train/ has "
            f"{describe_classes(train)} and val/ has {describe_classes(val)}; in only one of them: "
            f"{describe_classes(difference)}"
        )
    names = train if chosen is None else _chosen(path, train, chosen)
    if len(names) < 2:
        raise ValueError(f"{chosen or path} has {describe_classes(names)}; a classifier needs two or more")
    return tuple(names)


def list_files(path: Path, class_names: Sequence[str]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Return the image files of ``train`` and of ``val``, sorted by class and name.

    Raises:
        ValueError: if a folder of a class is empty, or holds something else than images.
    """
    train = [file for name in class_names for file in _images(path, "train", name)]
    if (path / "val" / _ANNOTATIONS).is_file():
        wanted = set(class_names)
        val = [file for file in _tiny_validation(path) if file.class_name in wanted]
    else:
        val = [file for name in class_names for file in _images(path, "val", name)]
    return train, sorted(val)


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path.resolve()}; {EXPECTED}")
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _chosen(path: Path, known: Sequence[str], chosen: Path) -> list[str]:
    if not chosen.is_file():
        raise FileNotFoundError(f"there is no list of classes at {chosen.resolve()}")
    try:
        text = chosen.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{chosen} is no text in UTF-8 ({error.reason}); save the list of classes as UTF-8") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    names = [line for line in lines if line]
    if unknown := sorted({*names} - {*known}):
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; the nearest is {close[0]!r}" if close else ""
        raise ValueError(
            f"{chosen} names classes that {path} does not have: {describe_classes(unknown)}{hint}; a line is the name "
            f"of a folder in train/, which has {describe_classes(known)}"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{chosen} names {twice[0]!r} more than once; leave one line")
    return sorted(names)


def _images(path: Path, split: str, class_name: str) -> list[ImageFile]:
    found = list(_files(path, f"{split}/{class_name}", class_name))
    if not found:
        raise ValueError(f"{path / split / class_name} holds no image; {EXPECTED}")
    return sorted(found)


def _files(path: Path, folder: str, class_name: str) -> list[ImageFile]:
    found: list[ImageFile] = []
    with os.scandir(path / folder) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.name.startswith(".") or entry.name == f"{class_name}_boxes.txt":
                continue
            if entry.name == "images" and entry.is_dir():
                found += _files(path, name, class_name)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                found.append(ImageFile(class_name, name, Path(entry.path)))
            else:
                raise ValueError(f"{path} holds {name}; {EXPECTED}")
    return found


def _tiny_validation(path: Path) -> list[ImageFile]:
    images = _files(path, "val/images", "images")
    return labelled(path, images, ImageFile("", f"val/{_ANNOTATIONS}", path / "val" / _ANNOTATIONS))
