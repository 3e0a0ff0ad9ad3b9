from types import SimpleNamespace

import pytest
import torch

from datamodules import Chain, CropFlip, RandomCrop, RandomFlip, augment
from datamodules.seeding import keyed_generator
from datamodules.transfer import to_device


@pytest.fixture
def x():
    return torch.rand(16, 3, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_matches_a_loop_over_images(x, padding):
    top, left = torch.randint(2 * padding + 1, (2, 16, 1), generator=keyed_generator(3)).squeeze(-1).tolist()
    padded = torch.zeros(16, 3, 9 + 2 * padding, 7 + 2 * padding)
    padded[:, :, padding : padding + 9, padding : padding + 7] = x
    expected = torch.stack([padded[i, :, t : t + 9, s : s + 7] for i, (t, s) in enumerate(zip(top, left, strict=True))])
    assert torch.equal(RandomCrop(padding=padding)(x, keyed_generator(3)), expected)


def test_crop_reaches_every_offset(x):
    one = torch.zeros(500, 1, 5, 5)
    one[:, :, 2, 2] = 1
    moved = RandomCrop(padding=2)(one, keyed_generator(0))
    assert (moved.sum((0, 1)) > 0).all()
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(500))


def test_flip_matches_a_loop_over_images(x):
    flipped = torch.rand(16, generator=keyed_generator(3)) < 0.5
    assert 0 < flipped.sum() < 16
    expected = torch.stack([image.flip(-1) if yes else image for image, yes in zip(x, flipped, strict=True)])
    assert torch.equal(RandomFlip()(x, keyed_generator(3)), expected)


def test_flip_never_and_always(x):
    assert torch.equal(RandomFlip(p=0)(x, keyed_generator(0)), x)
    assert torch.equal(RandomFlip(p=1)(x, keyed_generator(0)), x.flip(-1))


def test_chain_applies_in_order_from_one_generator(x):
    generator = keyed_generator(1)
    expected = RandomFlip()(RandomCrop(padding=2)(x, generator), generator)
    assert torch.equal(Chain([RandomCrop(padding=2), RandomFlip()])(x, keyed_generator(1)), expected)
    assert torch.equal(CropFlip(padding=2)(x, keyed_generator(1)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_shape_and_dtype_are_kept_and_the_input_is_not_changed(dtype):
    x = (torch.rand(5, 1, 8, 8) * 255).to(dtype)
    before = x.clone()
    changed = CropFlip()(x, keyed_generator(0))
    assert changed.shape == x.shape
    assert changed.dtype == dtype
    assert torch.equal(x, before)
    assert not torch.equal(changed, x)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="padding must be >= 0 pixels, got -1"):
        RandomCrop(padding=-1)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got 1.5"):
        CropFlip(p=1.5)


def test_what_is_drawn_goes_to_the_images_without_waiting(x, monkeypatch):
    sent = []
    monkeypatch.setattr(augment, "to_device", lambda drawn, device: sent.append(drawn) or drawn.to(device))
    assert CropFlip()(x.to("meta"), keyed_generator(0)).device.type == "meta"
    assert [len(sent), sent[0].shape, sent[1].shape] == [2, (2, 16, 1), (16,)]


def test_a_copy_to_a_gpu_is_pinned_and_not_waited_for():
    calls = []
    spy = SimpleNamespace(device=torch.device("cpu"))
    spy.pin_memory = lambda: calls.append("pinned") or spy
    spy.to = lambda device, **settings: calls.append((device.type, settings)) or spy
    to_device(spy, torch.device("cuda"))
    to_device(spy, torch.device("cpu"))
    assert calls == ["pinned", ("cuda", {"non_blocking": True}), ("cpu", {})]
