import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import CLASSES, write_folder, write_tar

from datamodules import ImageFolder, image_folder
from datamodules.cache import default_cache, save_tensors

SHARED = Path(os.environ.get("KAFNETS_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


def module(path, **kwargs):
    cache = Path(path).parent / "cache"
    return ImageFolder(path, **{"val_fraction": 0.25, "cache": cache, **kwargs})


def loaded(path, **kwargs):
    data = module(path, **kwargs)
    data.prepare_data()
    return data.load()


def test_a_folder_is_read_in_alphabetical_order(folder):
    train, test = loaded(folder)
    assert train.class_names == test.class_names == CLASSES
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    files = sorted(folder.glob("test/*/*.png"))
    expected = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
    assert torch.equal(test.images, expected)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("top", ["", ".", "pets"])
def test_a_tar_is_read_as_its_folder_is(folder, tmp_path, suffix, top):
    expected = loaded(folder)
    for ours, theirs in zip(loaded(write_tar(folder, tmp_path / f"images{suffix}", top=top)), expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.class_names == theirs.class_names


def test_the_folder_may_lie_inside_another_one(folder):
    assert torch.equal(loaded(folder.parent)[0].images, loaded(folder)[0].images)


def test_nothing_is_written_beside_the_images(folder, tmp_path):
    tar = write_tar(folder, tmp_path / "images.tar.gz")
    before = sorted(tmp_path.rglob("*"))
    loaded(tar, cache=tmp_path / "cache")
    new = set(tmp_path.rglob("*")) - set(before)
    assert {path.relative_to(tmp_path).parts[0] for path in new} == {"cache"}
    assert [path.suffix for path in new if path.is_file()] == [".pt"]


@pytest.mark.parametrize("packed", [False, True])
def test_the_second_use_decodes_nothing(folder, tmp_path, packed, monkeypatch):
    path = write_tar(folder, tmp_path / "images.tar.gz") if packed else folder
    first = loaded(path)
    monkeypatch.setattr(image_folder, "decode_images", lambda *args, **kwargs: pytest.fail("decoded again"))
    second = loaded(path)
    assert torch.equal(first[0].images, second[0].images)
    assert torch.equal(first[1].labels, second[1].labels)


@pytest.mark.parametrize("packed", [False, True])
def test_changed_files_are_noticed(folder, tmp_path, packed):
    path = write_tar(folder, tmp_path / "images.tar.gz") if packed else folder
    before = loaded(path)[1].images
    Image.new("RGB", (6, 6), (1, 2, 3)).save(folder / "test" / "cat" / "0.png")
    if packed:
        write_tar(folder, path)
    after = loaded(path)[1].images
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


def test_another_format_is_decoded_anew(folder):
    assert loaded(folder)[0].images.shape == (12, 3, 6, 6)
    resized, _ = loaded(folder, image_size=4)
    assert resized.images.shape == (12, 3, 4, 4)


def test_grey_images_fit_one_channel_and_three(tmp_path):
    folder = write_folder(tmp_path / "grey")
    for file in folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    one, three = loaded(folder)[0].images, loaded(folder, in_channels=3)[0].images
    assert one.shape == (12, 1, 6, 6)
    assert torch.equal(one.expand(-1, 3, -1, -1), three)


def test_hidden_files_and_files_elsewhere_are_ignored(folder):
    (folder / "README.txt").write_text("about")
    (folder / "train" / ".DS_Store").write_text("")
    (folder / "train" / "cat" / "._0.png").write_text("")
    assert len(loaded(folder)[0]) == 12


def test_the_cache_is_where_xdg_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "kafnets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "kafnets"


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "old.pt").write_text("old")

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"cannot write .*old.pt \(no space left\)"):
        save_tensors({}, tmp_path / "old.pt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.pt", "old")]


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there are no images at {tmp_path}/none; give a folder or"):
        loaded(tmp_path / "none")


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "images.rar").write_bytes(b"Rar!")
    with pytest.raises(ValueError, match=r"images.rar is not a folder or a .tar, .tar.gz, .tgz, .*, .zip; unpack it"):
        loaded(tmp_path / "images.rar")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_a_tar_cut_short_is_refused(folder, tmp_path, suffix, kept):
    tar = write_tar(folder, tmp_path / f"images{suffix}")
    content = tar.read_bytes()
    tar.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(OSError, match=f"the tar {tar} is corrupt or cut short"):
        loaded(tar)


def test_a_tar_cut_between_two_files_is_refused(folder, tmp_path):
    tar = write_tar(folder, tmp_path / "images.tar")
    tar.write_bytes(tar.read_bytes()[: 6 * 1024])
    with pytest.raises(OSError, match="no end-of-archive mark"):
        loaded(tar)


def test_a_damaged_header_inside_a_tar_is_refused(folder, tmp_path):
    tar = write_tar(folder, tmp_path / "images.tar")
    content = bytearray(tar.read_bytes())
    content[4 * 1024 : 4 * 1024 + 100] = b"?" * 100
    tar.write_bytes(content)
    with pytest.raises(OSError, match="no end-of-archive mark"):
        loaded(tar)


def test_a_corrupt_image_is_named(folder):
    file = folder / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(OSError, match=r"the image train/dog/1.png is corrupt"):
        loaded(folder)
    assert not list((folder.parent / "cache").iterdir())


def test_an_image_of_another_size_is_named(folder):
    Image.new("RGB", (5, 7)).save(folder / "train" / "eel" / "2.png")
    with pytest.raises(
        ValueError,
        match=r"the image train/eel/2.png has 5 x 7 pixels, not 6 x 6; set num_classes=3, in_channels=3, image_size=5, "
        r"to which they are resized: it holds 3 classes \(cat, dog, eel\) of colour images, 5 to 6 pixels wide and "
        r"6 to 7 high",
    ):
        loaded(folder)
    assert loaded(folder, image_size=5)[0].images.shape == (12, 3, 5, 5)


@pytest.mark.parametrize(
    ("mode", "in_channels", "message"),
    [
        ("RGB", 1, "is RGB, and in_channels=1 takes 1 or L; set num_classes=3, in_channels=3: it holds"),
        ("P", 1, "is P, and in_channels=1 takes 1 or L; set num_classes=3, in_channels=3: it holds"),
        ("RGBA", 3, "has transparent pixels"),
        ("LA", 1, "has transparent pixels"),
    ],
)
def test_an_image_that_would_lose_information_is_refused(folder, mode, in_channels, message):
    for file in folder.rglob("*.png"):
        Image.new(mode, (6, 6)).save(file)
    with pytest.raises(ValueError, match=f"the image train/cat/0.png {message}"):
        loaded(folder, in_channels=in_channels)


def test_one_error_leads_to_the_right_settings(tmp_path):
    folder = write_folder(tmp_path / "images", size=28)
    for file in folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    with pytest.raises(
        ValueError,
        match=r"has num_classes=3, not the 10 declared; set num_classes=3, in_channels=1: it holds 3 classes "
        r"\(cat, dog, eel\) of grey images, 28 pixels wide and 28 high",
    ):
        module(folder, num_classes=10)
    assert not list((tmp_path / "cache").iterdir())


def test_the_files_tell_what_is_not_given(tmp_path):
    folder = write_folder(tmp_path / "images", size=28)
    for file in folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    for settings, expected in ({}, (3, 1, 28)), ({"in_channels": 3}, (3, 3, 28)), ({"image_size": 32}, (3, 1, 32)):
        data = module(folder, **settings)
        assert (data.num_classes, data.in_channels, data.image_size) == expected
        data.setup("test")
        assert data.test_set.images.shape[1:] == (expected[1], expected[2], expected[2])


def test_images_that_are_not_square_are_refused_unless_a_size_is_given(folder):
    for file in folder.rglob("*.png"):
        Image.new("RGB", (5, 7)).save(file)
    with pytest.raises(ValueError, match=r"cat/0.png is not square: it has 5 x 7 pixels; set .*image_size=5, to which"):
        module(folder)
    assert loaded(folder, image_size=5)[0].images.shape == (12, 3, 5, 5)


@pytest.mark.parametrize("name", ["notes.txt", "deeper/3.png", "3.gif"])
def test_a_file_that_does_not_belong_is_named(folder, name):
    file = folder / "train" / "cat" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    with pytest.raises(ValueError, match=f"holds train/cat/{name}; expected"):
        loaded(folder)


def test_a_missing_split_is_named(folder):
    (folder / "test").rename(folder / "held_out")
    with pytest.raises(ValueError, match="has no images in test/ or val/; expected"):
        loaded(folder)
    (folder / "train").rename(folder / "val")
    with pytest.raises(ValueError, match="has no images in train/; expected"):
        loaded(folder)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images in train/; expected"):
        loaded(tmp_path / "empty")


def test_a_class_in_one_split_only_is_named(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(ValueError, match="class 'dog' is in only one of train/ and test/"):
        loaded(folder)


def test_two_data_sets_under_one_path_are_refused(folder):
    write_folder(folder.parent / "other")
    with pytest.raises(ValueError, match="more than one data set: images/, other/; give the path of one"):
        loaded(folder.parent)


def test_another_number_of_classes_than_declared_is_refused(folder):
    for _ in range(2):  # the second time they are in the cache
        with pytest.raises(ValueError, match="has num_classes=3, not the 10 declared; set num_classes=3"):
            module(folder, num_classes=10).setup()
        loaded(folder)


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write into the cache {tmp_path}/file/cache .* with cache="):
        loaded(folder, cache=tmp_path / "file" / "cache")


def test_a_damaged_cache_is_named(folder):
    loaded(folder)
    (file,) = (folder.parent / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(OSError, match=f"the cached images {file} cannot be read .* delete the file"):
        loaded(folder)


def test_no_flipped_bit_of_the_cache_changes_an_image_unnoticed(folder):
    expected = loaded(folder)
    (file,) = (folder.parent / "cache").iterdir()
    content = file.read_bytes()
    pixels = content.index(expected[0].images.numpy().tobytes())
    refused = 0
    for bit in (*range(5, 8 * len(content), 8 * len(content) // 200 | 1), 8 * pixels, 8 * pixels + 999):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            found = loaded(folder)
            assert all(torch.equal(a.images, b.images) for a, b in zip(found, expected, strict=True))
            assert all(torch.equal(a.labels, b.labels) for a, b in zip(found, expected, strict=True))
        except OSError as error:
            assert f"the cached images {file} cannot be read" in str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"notes": ()},
        {"notes": (), "train": {"images": torch.zeros(1, 3, 6, 6), "labels": torch.zeros(1), "class_names": ("a",)}},
    ],
    ids=["list", "incomplete", "float images"],
)
def test_a_cache_with_other_content_is_named(folder, content):
    loaded(folder)
    (file,) = (folder.parent / "cache").iterdir()
    save_tensors(content, file)
    with pytest.raises(OSError, match=f"the cached images {file} cannot be read .* delete the file"):
        loaded(folder)


def test_an_exchanged_tar_of_the_same_size_and_time_is_noticed(folder, tmp_path):
    tar = write_tar(folder, tmp_path / "images.tar")
    times = (tar.stat().st_atime_ns, tar.stat().st_mtime_ns)
    first = loaded(tar)[0].images
    content = tar.read_bytes()
    os.rename(folder / "train" / "cat", folder / "train" / "x")
    os.rename(folder / "train" / "dog", folder / "train" / "cat")
    os.rename(folder / "train" / "x", folder / "train" / "dog")
    assert len(write_tar(folder, tar).read_bytes()) == len(content)
    os.utime(tar, ns=times)
    assert not torch.equal(loaded(tar)[0].images, first)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"in_channels": 2}, r"in_channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"image_size": 0}, "image_size must be >= 1 pixel, got 0"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **kwargs)


@pytest.mark.slow
def test_the_jpeg_copy_of_cifar10_can_be_read(tmp_path):
    tar = SHARED / "cifar10-jpeg.tar.gz" if "KAFNETS_SHARED" in os.environ else SHARED / "data" / "cifar10-jpeg.tar.gz"
    if not tar.exists():
        pytest.skip(f"{tar} is absent; set KAFNETS_SHARED to the folder that holds it")
    data = ImageFolder(tar, cache=tmp_path)
    data.prepare_data()
    data.setup()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [45_000, 5_000, 5_000]
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    assert torch.bincount(data.val_set.labels).tolist() == [500] * 10
    # The channel means published for CIFAR-10; a wrong order of channels would change them.
    means = data.train_set.images.float().mean((0, 2, 3)) / 255
    assert torch.allclose(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3)
