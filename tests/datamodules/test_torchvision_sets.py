import gzip
import pickle
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from datamodules import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

SETS = [CIFAR10, CIFAR100, SVHN, MNIST, FashionMNIST]
RANDOM = np.random.default_rng(0)


def stored(kind, number):
    """A stand-in for torchvision's data set of ``kind``, with ``number`` images in its layout."""
    targets = [i % kind.num_classes for i in range(number)]
    names = [f"class {i}" for i in range(kind.num_classes)]
    size = kind.image_size
    if issubclass(kind, CIFAR10):
        return SimpleNamespace(
            data=RANDOM.integers(0, 256, (number, size, size, 3), np.uint8), targets=targets, classes=names
        )
    if kind is SVHN:
        return SimpleNamespace(
            data=RANDOM.integers(0, 256, (number, 3, size, size), np.uint8), labels=np.array(targets)
        )
    data = torch.randint(256, (number, size, size), dtype=torch.uint8)
    return SimpleNamespace(data=data, targets=torch.tensor(targets), classes=names)


@pytest.mark.parametrize("kind", SETS)
def test_every_set_becomes_uint8_nchw(kind, monkeypatch):
    sources = {True: stored(kind, 20 * kind.num_classes), False: stored(kind, kind.num_classes)}
    monkeypatch.setattr(kind, "torchvision_set", lambda self, *, train, download: sources[train])
    data = kind(download=False, val_fraction=0.1)
    train, test = data.load()
    assert train.images.shape == (20 * kind.num_classes, data.in_channels, data.image_size, data.image_size)
    last = torch.as_tensor(sources[False].data[-1])
    if issubclass(kind, CIFAR10):
        last = last.permute(2, 0, 1)
    assert torch.equal(test.images[-1], last.reshape(test.images.shape[1:]))
    assert test.labels.tolist() == list(range(kind.num_classes))
    data.setup()
    assert len(data.val_set) == 2 * kind.num_classes


def no_network(*args, **kwargs):
    raise URLError("no network")


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("kind", SETS)
def test_missing_files_give_one_error_with_both_remedies(kind, download, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    data = kind(root=tmp_path, download=download)
    with pytest.raises(FileNotFoundError) as caught:
        data.prepare_data()
        data.setup()
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__} is not in {tmp_path}, which has no {kind.stored_in[0]}")
    assert f"download=True on a machine with a network and copy {tmp_path} here" in message
    assert "ImageFolder (path=...)" in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", SETS)
def test_corrupt_files_are_named(kind, tmp_path):
    for name in kind.stored_in:
        file = tmp_path / name
        if issubclass(kind, CIFAR10):
            file = file / datasets.CIFAR10.test_list[0][0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x00\x00\x08\x03 not images")
    with pytest.raises(
        OSError, match=rf"{kind.__name__} in {tmp_path} is incomplete or corrupt .*delete {kind.stored_in[0]}"
    ):
        kind(root=tmp_path, download=False).setup()


def test_a_download_is_read_by_torchvision_itself(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = RANDOM.integers(0, 256, (20, 3072), np.uint8)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in batches:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(20)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = CIFAR10(root=tmp_path, batch_size=8, val_fraction=0.2)
    data.prepare_data()
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (80, 20, 20)
    assert data.class_names == tuple("abcdefghij")
    _, test = data.load()
    assert torch.equal(test.images[3], torch.from_numpy(pixels[3]).reshape(3, 32, 32))


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_files_that_differ_from_the_compressed_ones_are_refused(kind, tmp_path):
    raw = tmp_path / kind.__name__ / "raw"
    raw.mkdir(parents=True)
    for name in kind.stored_in:
        number = 100 if "train" in name else 20
        shape = (number, 28, 28) if "images" in name else (number,)
        header = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
        values = (
            RANDOM.integers(0, 256, shape, np.uint8) if "images" in name else np.arange(number, dtype=np.uint8) % 10
        )
        file = tmp_path / name
        file.write_bytes(header + values.tobytes())
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    kind(root=tmp_path, download=False, batch_size=8).setup()
    for name in kind.stored_in:
        for file in (tmp_path / name, tmp_path / f"{name}.gz"):
            content = file.read_bytes()
            damaged = bytearray(content)
            damaged[-20] ^= 1
            file.write_bytes(damaged)
            with pytest.raises(OSError, match=f"{kind.__name__} in {tmp_path} is incomplete or corrupt"):
                kind(root=tmp_path, download=False, batch_size=8).setup()
            file.write_bytes(content)
