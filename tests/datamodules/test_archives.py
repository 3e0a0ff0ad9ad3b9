import io
import tarfile
import zipfile

import pytest
import torch
from PIL import Image
from tiny_images import read, same_images, write_archive, write_folder, write_tar

COMPRESSED = [".tar.gz", ".tar.xz", ".tar.bz2", ".zip"]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", train=2, test=1)


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (6, 6), colour).save(stream, "PNG")
    return stream.getvalue()


def add(tar, name, content=b"", **kind):
    """Append a file, or with ``type`` and ``linkname`` a link."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in kind.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("top", ["", ".", "pets"])
@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".txz", *COMPRESSED])
def test_an_archive_is_read_as_its_folder_is(folder, tmp_path, suffix, top):
    assert same_images(read(write_archive(folder, tmp_path / f"images{suffix}", top=top)), read(folder))


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_no_flipped_bit_changes_an_image_unnoticed(tmp_path, suffix):
    folder = write_folder(tmp_path / "images", train=1, test=1)
    for file in folder.rglob("*.png"):  # bitmaps have no checksum of their own
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    archive = write_archive(folder, tmp_path / f"images{suffix}")
    expected, content = read(archive), archive.read_bytes()
    refused = 0
    positions = range(3, 8 * len(content), len(content) // 20 | 1)
    for bit in positions:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(damaged)
        try:
            assert same_images(read(archive), expected), f"bit {bit} of {archive.name} loads other images"
        except (OSError, ValueError) as error:
            assert str(archive) in str(error)
            refused += 1
    # The rest are bits that say nothing, such as the time in the header of gzip.
    assert refused > len(positions) / 2


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".tar.bz2"])
def test_the_checksum_behind_the_end_of_the_tar_is_verified(folder, tmp_path, suffix):
    archive = write_tar(folder, tmp_path / f"images{suffix}")
    content = bytearray(archive.read_bytes())
    content[-12 if suffix == ".tar.xz" else -6] ^= 1
    archive.write_bytes(content)
    with pytest.raises(OSError, match=f"the tar {archive} is corrupt or cut short .*; copy or download it again"):
        read(archive)


def test_a_flipped_bit_in_a_png_of_a_plain_tar_is_found(folder, tmp_path):
    archive = write_tar(folder, tmp_path / "images.tar")
    content = archive.read_bytes()
    pixels = content.index(b"IDAT") + 4
    for bit in range(8 * pixels, 8 * (pixels + 100), 13):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(damaged)
        with pytest.raises(OSError, match=r"the image .* is corrupt"):
            read(archive)


def test_data_behind_the_end_of_a_tar_are_not_ignored(folder, tmp_path):
    archive = write_tar(folder, tmp_path / "images.tar")
    archive.write_bytes(archive.read_bytes() * 2)  # as cat a.tar b.tar does
    with pytest.raises(OSError, match="no end-of-archive mark after the last readable file, or more data behind it"):
        read(archive)


def test_of_two_files_of_the_same_name_the_later_one_counts(folder, tmp_path):
    archive = write_tar(folder, tmp_path / "images.tar")
    with tarfile.open(archive, "a") as tar:  # as tar --append does
        add(tar, "./train/cat/0.png", png((1, 2, 3)))
    updated = read(archive)
    assert len(updated["train"]) == 6
    assert updated["train"].images[0, :, 0, 0].tolist() == [1, 2, 3]
    with zipfile.ZipFile(write_archive(folder, tmp_path / "images.zip"), "a") as stream, pytest.warns(UserWarning):
        stream.writestr("train/cat/0.png", png((1, 2, 3)))
    assert same_images(read(tmp_path / "images.zip"), updated)


def test_links_in_a_tar_are_followed(folder, tmp_path):
    expected = read(folder)
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(folder.rglob("*.png")):
            name = str(file.relative_to(folder))
            if name == "train/cat/0.png":
                add(tar, ".store/a", file.read_bytes())
                add(tar, ".store/b", type=tarfile.LNKTYPE, linkname=".store/a")
                add(tar, name, type=tarfile.LNKTYPE, linkname=".store/b")
            elif name == "train/cat/1.png":
                add(tar, "blobs/1", file.read_bytes())
                add(tar, "blobs/link", type=tarfile.SYMTYPE, linkname="1")
                add(tar, name, type=tarfile.SYMTYPE, linkname="../../blobs/link")
            elif name.startswith("train/dog/"):
                add(tar, name.replace("train/dog", "animals/dogs"), file.read_bytes())
            else:
                add(tar, name, file.read_bytes())
        add(tar, "train/dog", type=tarfile.SYMTYPE, linkname="../latest/dogs")
        add(tar, "latest", type=tarfile.SYMTYPE, linkname="animals")
    assert same_images(read(archive), expected)


def test_a_hard_link_is_the_file_as_it_was_when_linked(folder, tmp_path):
    archive = write_tar(folder, tmp_path / "images.tar")
    with tarfile.open(archive, "a") as tar:
        add(tar, "train/cat/linked.png", type=tarfile.LNKTYPE, linkname="train/cat/0.png")
        add(tar, "train/cat/0.png", png((1, 2, 3)))
    assert torch.equal(read(archive)["train"].images[2], read(folder)["train"].images[0])


@pytest.mark.parametrize(
    ("name", "kind", "target", "reason"),
    [
        ("train/cat/9.png", tarfile.SYMTYPE, "../../../9.png", "link .* -> ../../../9.png leads out of the archive"),
        ("train/cat/9.png", tarfile.SYMTYPE, "/etc/passwd", "link .* -> /etc/passwd leads out of the archive"),
        ("train/cat/9.png", tarfile.SYMTYPE, "none.png", "link .* -> none.png leads to nothing"),
        ("train/cat/9.png", tarfile.SYMTYPE, "9.png", "link .* -> 9.png leads in a circle"),
        ("train/owl", tarfile.SYMTYPE, "../nests/owl", "link .* -> ../nests/owl leads to nothing"),
        ("train/owl", tarfile.SYMTYPE, "..", "link .* -> .. leads in a circle"),
        ("train/owl", tarfile.SYMTYPE, "../test/../train/cat", "leads through .. behind a folder's name"),
        ("train/cat", tarfile.SYMTYPE, "dog", "the file train/cat/0.png is stored below the link train/cat -> dog"),
        ("train/cat/9.png", tarfile.LNKTYPE, "9.png", "hard link .* -> 9.png leads to no file stored before it"),
        ("train/cat/9.png", tarfile.FIFOTYPE, "", "train/cat/9.png is neither a file, a folder nor a link"),
        ("test", tarfile.SYMTYPE, "../elsewhere", "link test -> ../elsewhere leads out of the archive"),
    ],
)
def test_a_link_that_cannot_be_followed_in_a_tar_is_named(folder, tmp_path, name, kind, target, reason):
    archive = write_tar(folder, tmp_path / "images.tar")
    with tarfile.open(archive, "a") as tar:
        add(tar, name, type=kind, linkname=target)
    with pytest.raises(ValueError, match=rf"{archive}: .*{reason}; delete it, or put the files themselves") as caught:
        read(archive)
    assert name in str(caught.value)


def test_links_outside_the_splits_are_ignored(folder, tmp_path):
    archive = write_tar(folder, tmp_path / "images.tar", top="pets")
    with tarfile.open(archive, "a") as tar:
        add(tar, "pets/README", type=tarfile.SYMTYPE, linkname="/usr/share/doc")
        add(tar, "pets/train/.cache", type=tarfile.SYMTYPE, linkname="/var/cache")
    assert same_images(read(archive), read(folder))


def test_symbolic_links_in_a_zip_are_followed(folder, tmp_path):
    archive = write_archive(folder, tmp_path / "images.zip")
    for number, (name, target) in enumerate([("train/cat/2.png", "0.png"), ("train/cat/3.png", "/etc/passwd")]):
        link = zipfile.ZipInfo(name)
        link.external_attr = 0o120777 << 16
        with zipfile.ZipFile(archive, "a") as stream:
            stream.writestr(link, target)
        if number == 0:
            images = read(archive)["train"].images
            assert len(images) == 7
            assert torch.equal(images[2], images[0])
    with pytest.raises(ValueError, match=r"the link train/cat/3.png -> /etc/passwd leads out of the archive"):
        read(archive)


def test_a_name_that_leads_out_of_the_archive_is_refused(folder, tmp_path):
    archive = write_tar(folder, tmp_path / "images.tar")
    with tarfile.open(archive, "a") as tar:
        add(tar, "train/../../cat/0.png", png((1, 2, 3)))
    with pytest.raises(ValueError, match=r"holds train/../../cat/0.png, a name that leads out of the archive"):
        read(archive)


def test_an_encrypted_zip_is_refused(folder, tmp_path):
    archive = write_archive(folder, tmp_path / "images.zip")
    content = bytearray(archive.read_bytes())
    for position in range(len(content)):
        for mark, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            if content.startswith(mark, position):
                content[position + flags] |= 1
    archive.write_bytes(content)
    with pytest.raises(OSError, match=f"the zip {archive} .* password required"):
        read(archive)
