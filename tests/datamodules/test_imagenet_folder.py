"""Photographs in folders of classes, decoded while training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import CLASSES, photograph, write_odd_files, write_photographs
from PIL import Image
from torchvision import transforms

from datamodules import ImageNetFolder, checked_files, shared_memory
from datamodules.crops import random_box
from datamodules.decoding import decode_rgb
from datamodules.seeding import keyed_generator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "images")


def data(folder: Path, **settings) -> ImageNetFolder:
    wanted = {"image_size": 16, "shorter_side": 20, "batch_size": 4, "val_fraction": 0.25, "cache": folder.parent}
    return ImageNetFolder(folder, **wanted | settings)


def ready(folder: Path, **settings) -> ImageNetFolder:
    found = data(folder, **settings)
    found.prepare_data()
    found.setup()
    return found


def rgb(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB")


def test_sizes_are_known_before_any_image_is_read(folder):
    found = data(folder)
    assert (found.num_classes, found.in_channels, found.image_size, found.train_sizes) == (3, 3, 16, (16,))
    assert not list(folder.parent.glob("*.pt"))


def test_evaluation_images_are_those_of_torchvision(folder):
    images = ready(folder).test_set
    x, y, index = images[torch.arange(len(images))]
    assert (x.dtype, x.shape, images.class_names) == (torch.uint8, (6, 3, 16, 16), CLASSES)
    view = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16), transforms.PILToTensor()])
    files = sorted((folder / "val").rglob("*.JPEG"))
    expected = {(CLASSES.index(file.parent.name), view(rgb(file)).numpy().tobytes()) for file in files}
    assert {(int(label), image.numpy().tobytes()) for image, label in zip(x, y, strict=True)} == expected
    assert index.tolist() == list(range(6))


def test_the_validation_set_is_held_out_of_every_class(folder):
    found = ready(folder)
    assert torch.bincount(found.train_set.labels).tolist() == [3] * 3
    assert torch.bincount(found.val_set.labels).tolist() == [1] * 3
    assert not set(found.train_set.rows.tolist()) & set(found.val_set.rows.tolist())


def test_odd_files_are_converted(folder):
    odd = folder / "train" / CLASSES[0]
    for name, expected in write_odd_files(odd).items():
        found = decode_rgb((odd / name).read_bytes(), name)
        assert found.size == expected.size
        assert np.abs(np.array(found).astype(int) - np.array(expected)).mean() < 3, name
    assert len(ready(folder).train_set) == 12 + 5 - round(0.25 * 17)


def test_files_that_cannot_be_used_are_named_before_training_and_the_rest_is_remembered(folder, monkeypatch):
    bad = folder / "train" / CLASSES[1]
    whole = (bad / f"{CLASSES[1]}_0.JPEG").read_bytes()
    (bad / "cut.JPEG").write_bytes(whole[: len(whole) // 2])
    (bad / "text.JPEG").write_text("no image")
    Image.new("RGBA", (8, 8), (0, 0, 0, 9)).save(bad / "clear.png")
    with pytest.raises(ValueError, match=r"3 of 21 images cannot be used") as error:
        data(folder).prepare_data()
    for name in ("cut.JPEG is corrupt", "text.JPEG is corrupt or none of", "clear.png has transparent pixels"):
        assert f"train/{CLASSES[1]}/{name}" in str(error.value)
    for name in ("cut.JPEG", "text.JPEG", "clear.png"):
        (bad / name).unlink()
    monkeypatch.setattr(checked_files, "decode_rgb", None)  # calling it would fail
    assert len(ready(folder).train_set) == 9


def test_only_what_has_changed_is_decoded_again(folder, monkeypatch):
    first = ready(folder).test_set.content_sha256
    changed = folder / "val" / CLASSES[2] / f"{CLASSES[2]}_1.JPEG"
    photograph(99).save(changed)
    decoded = []
    monkeypatch.setattr(checked_files, "decode_rgb", lambda data, where: decoded.append(where))
    second = ready(folder).test_set.content_sha256
    assert decoded == [f"val/{CLASSES[2]}/{CLASSES[2]}_1.JPEG"]
    assert first != second == ready(folder).test_set.content_sha256
    changed.unlink()
    assert len(ready(folder).test_set) == 5


def test_an_index_of_files_that_were_not_all_checked_is_not_used(folder):
    whole = (bad := folder / "val" / CLASSES[0] / "cut.JPEG").with_name(f"{CLASSES[0]}_0.JPEG").read_bytes()
    bad.write_bytes(whole[:300])
    for _ in range(2):  # the first check leaves an index
        with pytest.raises(ValueError, match="1 of 19 images cannot be used"):
            data(folder).setup()


def test_a_file_that_becomes_unusable_during_a_run_is_named_as_changed(folder):
    images = ready(folder).test_set
    Image.new("RGBA", (8, 8), (0, 0, 0, 9)).save(folder / images.files.table.name(int(images.rows[0])), "PNG")
    with pytest.raises(OSError, match=r"transparent pixels.*; it has changed since it was checked"):
        images[torch.tensor([0])]


def test_random_boxes_have_the_areas_and_ratios_that_were_asked_for():
    boxes = [random_box(90, 60, 0.25, keyed_generator("box", i)) for i in range(400)]
    areas = torch.tensor([(right - left) * (bottom - top) / 5400 for left, top, right, bottom in boxes])
    ratios = torch.tensor([(right - left) / (bottom - top) for left, top, right, bottom in boxes])
    assert all(0 <= left < right <= 90 and 0 <= top < bottom <= 60 for left, top, right, bottom in boxes)
    assert 0.24 < areas.min() < 0.3 and areas.max() > 0.8
    assert 0.72 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.4
    assert random_box(400, 10, 1.0, keyed_generator("box", 0)) == (193, 0, 206, 10)  # none of ten draws fits


def training_images(folder: Path, epoch: int, **settings) -> dict[int, torch.Tensor]:
    """The training images of an epoch by their positions."""
    found = ready(folder, **settings)
    loader = found.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {int(i): image for x, _, index in loader for i, image in zip(index, x, strict=True)}


def test_random_crops_depend_on_seed_epoch_and_image_alone(folder):
    expected = training_images(folder, 1, batch_size=9)
    assert len(expected) == 9
    for settings in ({"batch_size": 3}, {"batch_size": 2, "num_workers": 2}):
        found = training_images(folder, 1, **settings)
        assert all(torch.equal(image, expected[i]) for i, image in found.items())
    for other in (training_images(folder, 2, batch_size=9), training_images(folder, 1, batch_size=9, min_area=0.9)):
        assert not any(torch.equal(image, expected[i]) for i, image in other.items())


def test_the_classes_of_a_list_are_read_alone(folder, tmp_path):
    chosen = tmp_path / "two.txt"
    chosen.write_text(f"{CLASSES[2]}\n\n{CLASSES[0]}  # fish\n", encoding="utf-8-sig")
    shutil.rmtree(folder / "train" / CLASSES[1])
    (folder / "train" / CLASSES[1]).mkdir()
    found = ready(folder, classes=chosen)
    assert found.class_names == (CLASSES[0], CLASSES[2])
    assert torch.bincount(found.test_set.labels).tolist() == [2, 2]


def test_the_folders_of_tiny_imagenet_are_read(folder):
    lines = []
    for split in ("train", "val"):
        for name in CLASSES:
            images = folder / "train" / name / "images" if split == "train" else folder / "val" / "images"
            images.mkdir(exist_ok=True)
            for file in sorted((folder / split / name).glob("*.JPEG")):
                file.rename(images / file.name)
                lines += [f"{file.name}\t{name}\t0\t0\t9\t9\n"] if split == "val" else []
            if split == "train":
                (folder / "train" / name / f"{name}_boxes.txt").write_text("0 0 9 9\n")
            else:
                (folder / "val" / name).rmdir()
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    found = ready(folder)
    assert found.class_names == CLASSES
    assert torch.bincount(found.test_set.labels).tolist() == [2] * 3
    assert torch.bincount(found.train_set.labels).tolist() == [3] * 3
    (folder / "val" / "val_annotations.txt").write_text("".join(lines).replace(f"\t{CLASSES[0]}", f"\t{CLASSES[1]}", 1))
    assert torch.bincount(ready(folder).test_set.labels).tolist() == [1, 3, 2]


def remove(name):
    return lambda folder: shutil.rmtree(folder / name)


def listed(text):
    def write(folder):
        (folder.parent / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return {"classes": folder.parent / "list.txt"}

    return write


def flat_validation(folder):
    for name in CLASSES:
        for file in (folder / "val" / name).iterdir():
            file.rename(folder / "val" / file.name)
        (folder / "val" / name).rmdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("train"), "there is no folder .*train; expected train/<class>/<image>"),
        (remove("val"), "there is no folder .*val; expected"),
        (remove(f"val/{CLASSES[1]}"), f"class '{CLASSES[1]}' is in only one of train/ and val/.*3 classes.*2 classes"),
        (flat_validation, "val has no folders of classes; move its images into one folder per class"),
        (listed("n01440764\nn01443538\n"), "names classes that .* does not have.*n01443538.*nearest is 'n01443537'"),
        (listed("n01440764\nn01440764\n"), "names 'n01440764' more than once"),
        (listed("é".encode("latin-1")), "list.txt is no text in UTF-8 .*; save the list of classes as UTF-8"),
        (listed("n01440764\n"), "has 1 classes .*a classifier needs two or more"),
        (lambda folder: {"classes": folder / "none.txt"}, "there is no list of classes at"),
    ],
)
def test_bad_folders_are_refused_before_any_image_is_read(folder, change, message):
    settings = change(folder) or {}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        data(folder, **settings)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_image_and_an_empty_class_are_named(folder):
    (folder / "train" / CLASSES[0] / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=f"holds train/{CLASSES[0]}/readme.txt; expected"):
        data(folder).prepare_data()
    shutil.rmtree(folder / "train" / CLASSES[0])
    (folder / "train" / CLASSES[0]).mkdir()
    with pytest.raises(ValueError, match=f"{CLASSES[0]} holds no image; expected"):
        data(folder).prepare_data()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"shorter_side": 15}, "shorter_side must be >= image_size=16, got 15"),
        ({"min_area": 0.0}, r"min_area must lie in \(0, 1\], got 0.0"),
        ({"phases": []}, "phases is empty"),
    ],
)
def test_bad_arguments_are_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        data(folder, **settings)


def test_another_number_of_classes_than_declared_is_refused(folder):
    with pytest.raises(ValueError, match="has num_classes=3, not the 1000 declared; set num_classes=3"):
        data(folder, num_classes=1000).prepare_data()


def test_too_little_shared_memory_for_the_workers_is_refused_before_any_work(monkeypatch):
    free = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", Path("/"))
    shared_memory.check_shared_memory(100_000, num_workers=5)
    with pytest.raises(ValueError, match=r"num_workers=6 needs 1 MB of shared memory.*set num_workers <= 5"):
        shared_memory.check_shared_memory(100_000, num_workers=6)
    with pytest.raises(ValueError, match="num_workers <= 2"):
        shared_memory.check_shared_memory(100_000, num_workers=3, processes=2)
