import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_images import CLASSES, read, same_images, write_archive, write_folder

from datamodules import ImageFolder

WNIDS = ("n01443537", "n01629819", "n01641577")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


def set_up(path, **kwargs):
    settings = {"val_fraction": 0.25, "batch_size": 2, **kwargs}
    data = ImageFolder(path, cache=path.parent / "cache", **settings)
    data.prepare_data()
    data.setup()
    return data


def test_val_is_the_test_set_where_there_is_no_other(folder):
    expected = read(folder)
    (folder / "test").rename(folder / "val")
    assert same_images(read(folder), expected)
    with pytest.warns(UserWarning, match="the 6 images in val/ are the test set, and validation images are held out"):
        assert len(set_up(folder).test_set) == 6
    with pytest.warns(UserWarning, match="the 6 images in val/ are the test set"):  # also from the cache
        set_up(folder)


def test_val_beside_test_is_not_used_and_that_is_said(folder):
    expected = read(folder)
    write_folder(folder / "other", train=1, test=3)
    shutil.move(folder / "other" / "test", folder / "val")
    shutil.rmtree(folder / "other")
    assert same_images(read(folder), expected)
    with pytest.warns(UserWarning, match="the 9 images in val/ are not used; test/ is the test set"):
        set_up(folder)


@pytest.fixture
def tiny_imagenet(tmp_path):
    """The layout of tiny-imagenet-200 as it is distributed, with three classes of two and one image."""
    source = write_folder(tmp_path / "source", train=2, test=1)
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for number, (name, wnid) in enumerate(zip(CLASSES, WNIDS, strict=True)):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (images.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t5\t5\n")
        for i in range(2):
            Image.open(source / "train" / name / f"{i}.png").save(images / f"{wnid}_{i}.JPEG", quality=100)
        for split in ("val", "test"):
            (root / split / "images").mkdir(parents=True, exist_ok=True)
            # Numbered backwards, so that the order of the files is not that of the classes.
            file = root / split / "images" / f"{split}_{2 - number}.JPEG"
            Image.open(source / "test" / name / "0.png").save(file, quality=100)
        lines.append(f"val_{2 - number}.JPEG\t{wnid}\t0\t0\t5\t5\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    return root


@pytest.mark.parametrize("suffix", [None, ".zip", ".tar.gz"])
def test_tiny_imagenet_is_read_as_it_is_distributed(tiny_imagenet, tmp_path, suffix):
    path = tiny_imagenet
    if suffix:
        path = write_archive(tiny_imagenet, tmp_path / f"tiny{suffix}", top="tiny-imagenet-200")
    images = read(path)
    assert images["train"].class_names == WNIDS
    assert images["train"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images["test"].labels.tolist() == [2, 1, 0]
    first = read_pixels(tiny_imagenet / "val" / "images" / "val_0.JPEG")
    assert torch.equal(images["test"].images[0], first)
    with pytest.warns(UserWarning) as caught:
        set_up(path, val_fraction=0.5)
    assert [str(each.message).removeprefix(str(path)) for each in caught if str(path) in str(each.message)] == [
        ": the 3 images in test/images have no labels and are not used",
        " has no labelled test/: the 3 images in val/ are the test set, and validation images are held out of train/ "
        "(val_fraction)",
    ]


def read_pixels(file):
    image = Image.open(file)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(6, 6, 3).permute(2, 0, 1)


def test_tiny_imagenet_with_its_val_sorted_into_folders_is_read_too(tiny_imagenet):
    expected = read(tiny_imagenet)["test"]
    for i, wnid in ((2, WNIDS[0]), (1, WNIDS[1]), (0, WNIDS[2])):
        new = tiny_imagenet / "val" / wnid / "images"
        new.mkdir(parents=True)
        (tiny_imagenet / "val" / "images" / f"val_{i}.JPEG").rename(new / f"val_{i}.JPEG")
    images = read(tiny_imagenet)["test"]
    assert images.labels.tolist() == [0, 1, 2]
    assert torch.equal(images.images, expected.images.flip(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "names 2 images, and val/images holds 3; only one of them has val_2.JPEG"),
        (lambda lines: [*lines, "val_9.JPEG\tn01443537\n"], "names 4 .* holds 3; only one of them has val_9.JPEG"),
        (lambda lines: ["val_2.JPEG n01443537\n"], "line 1: expected a new image, a tab and its class, got 'val_2"),
        (lambda lines: [*lines, "val_2.JPEG\tn01641577\n"], "line 4: expected a new image, a tab and its class"),
    ],
)
def test_annotations_that_do_not_fit_the_images_are_refused(tiny_imagenet, change, message):
    file = tiny_imagenet / "val" / "val_annotations.txt"
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=f"val/val_annotations.txt.* {message}"):
        read(tiny_imagenet)


def flat(folder, *, top=""):
    """Six images of each class without a split."""
    root = folder.parent / "flat"
    for file in folder.rglob("*.png"):
        split, name = file.relative_to(folder).parts[:2]
        (root / top / name).mkdir(parents=True, exist_ok=True)
        file.rename(root / top / name / f"{split}{file.name}")
    (root / top / "README.txt").write_text("about")
    return root


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("top", ["", "pets"])
def test_without_splits_a_fifth_of_every_class_is_the_test_set(tmp_path, top, packed):
    root = flat(write_folder(tmp_path / "images", train=10, test=5), top=top)
    path = write_archive(root, tmp_path / "flat.zip") if packed else root
    images = read(path)
    assert images["test"].labels.bincount().tolist() == [3, 3, 3]
    assert images["train"].labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    everything = torch.cat([images[split].images.flatten(1) for split in ("train", "test")])
    assert len(everything.unique(dim=0)) == 45
    note = "neither train/ nor test/: 9 of its 45 images are held out as the test set, in proportion .* for every seed"
    with pytest.warns(UserWarning, match=note):
        first = set_up(path, seed=0)
    with pytest.warns(UserWarning, match=note):
        second = set_up(path, seed=1)
    assert torch.equal(first.test_set.images, second.test_set.images)


def test_a_class_with_too_few_images_for_a_test_set_is_named(folder):
    root = flat(folder)
    for file in sorted((root / "dog").iterdir())[1:]:
        file.unlink()
    with pytest.raises(ValueError, match=r"class 'dog' has too few images \(1\) to hold out 20% of them"):
        read(root)


@pytest.mark.parametrize("name", ["cover.png", "cat/deeper/0.png", "cat/notes.txt"])
def test_a_file_between_the_classes_is_named(folder, name):
    root = flat(folder)
    (root / name).parent.mkdir(exist_ok=True)
    shutil.copy(next(root.glob("cat/*.png")), root / name)
    with pytest.raises(ValueError, match=r"holds (cover.png|cat/.*); expected"):
        read(root)


def test_folders_deeper_than_any_layout_are_not_searched(folder):
    folder.rename(folder.parent / "a")
    (folder.parent / "b" / "c").mkdir(parents=True)
    (folder.parent / "a").rename(folder.parent / "b" / "c" / "a")
    with pytest.raises(ValueError, match="b/c/a is a folder where an image is expected"):
        read(folder.parent)


def test_one_class_alone_is_refused(folder):
    root = flat(folder)
    for name in ("dog", "eel"):
        shutil.rmtree(root / name)
    with pytest.raises(ValueError, match="holds images of one class only, 'cat'; a classifier needs two or more"):
        read(root)


def test_a_class_in_one_split_only_is_refused_with_what_was_seen(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(
        ValueError,
        match=r"class 'dog' is in only one of train/ and test/; both need every class, but train/ has 3 classes "
        r"\(cat, dog, eel\) and test/ has 3 classes \(cat, eel, wolf\); in only one of them: dog, wolf",
    ):
        read(folder)


def test_links_in_a_folder_are_followed_inside_it(folder):
    expected = read(folder)
    store = folder / "store"
    (folder / "train" / "dog").rename(store)
    (folder / "train" / "dog").symlink_to(Path("..", "store"))  # a folder, relative
    (store / "0.png").rename(folder / "blob")
    (store / "0.png").symlink_to(folder / "blob")  # a file, absolute
    cat = folder / "train" / "cat"
    os.link(cat / "0.png", folder / "hard")
    (cat / "0.png").unlink()
    os.link(folder / "hard", cat / "0.png")
    (folder / "somewhere").symlink_to("/nonexistent")  # no part of the data set
    (folder / "test").rename(folder / "held_out")
    (folder / "test").symlink_to("held_out")
    assert same_images(read(folder), expected)


@pytest.mark.parametrize(
    ("link", "target", "reason"),
    [
        ("train/cat/9.png", "none.png", "the link train/cat/9.png -> none.png leads to nothing"),
        ("train/cat/9.png", "../../../other/0.png", "train/cat/9.png leads to .*/other/0.png, outside .*/images"),
        ("train/owl", "../../other", "train/owl leads to .*/other, outside .*/images"),
        ("train/owl", "none", "the link train/owl -> none leads to nothing"),
        ("train/owl", "..", "train/owl leads to .*/images, which holds it: a circle"),
        ("train/owl", "owl", "the link train/owl -> owl leads to nothing"),
        ("val", "none", "the link val -> none leads to nothing"),
        ("pets", "../other", "pets/train leads to .*/other/train, outside .*/images"),
    ],
)
def test_a_link_that_cannot_be_followed_in_a_folder_is_named(folder, link, target, reason):
    other = folder.parent / "other"
    (other / "train").mkdir(parents=True)
    shutil.copy(folder / "train" / "cat" / "0.png", other)
    (folder / link).symlink_to(target)
    with pytest.raises(ValueError, match=f"{reason}.*; delete it, or put the files themselves in its place"):
        read(folder)


def test_a_changed_file_behind_a_link_is_noticed(folder):
    (folder / "train" / "dog").rename(folder / "store")
    (folder / "train" / "dog").symlink_to(Path("..", "store"))
    first = set_up(folder).train_set.images
    Image.new("RGB", (6, 6), (1, 2, 3)).save(folder / "store" / "0.png")
    assert not torch.equal(set_up(folder).train_set.images, first)
