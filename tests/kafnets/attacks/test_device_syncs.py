"""On devices where reading a value is slow, attacks rarely read which images are still correct, and find the same."""

import functools

import pytest
import torch

from kafnets.attacks import APGD, APGDT, PGD, Square, base
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

ATTACKS = {
    "pgd": functools.partial(PGD, steps=20, step_size=0.02, restarts=2),
    "apgd": functools.partial(APGD, steps=20),
    "apgd_targeted": functools.partial(APGDT, steps=10, targets=3),
    "square": functools.partial(Square, queries=60),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_images_are_fooled(name, digits, monkeypatch):
    net, x, y = digits
    keys, batches = image_keys(torch.arange(len(x)), 0), []

    def counting(images):
        batches.append(len(images))
        return net(images)

    found = {}
    for between in (1, 8):
        monkeypatch.setitem(base.STEPS_BETWEEN_SYNCS, "cpu", between)
        batches.clear()
        x_adv = ATTACKS[name](eps=0.1)(counting, x, y, keys=keys)
        found[between] = x_adv, is_correct(net(x_adv), y), sum(batches)
    assert torch.equal(found[1][1], found[8][1]) and 0.1 < found[1][1].float().mean() < 0.9
    assert found[1][2] < found[8][2], "misclassified images stay in the batch between two syncs"
    if name == "pgd":
        torch.testing.assert_close(found[1][0], found[8][0], rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_is_refused_at_the_first_step(monkeypatch):
    monkeypatch.setitem(base.STEPS_BETWEEN_SYNCS, "cpu", 8)
    net = lambda x: torch.stack([x.sum(1), (x - x).sum(1).sqrt()], 1)  # noqa: E731
    with pytest.raises(ValueError, match="not finite"):
        PGD(eps=0.1, steps=3)(net, torch.full((2, 3), 0.5), torch.tensor([0, 0]))


def test_a_gradient_that_is_not_finite_between_two_syncs_is_refused(monkeypatch):
    monkeypatch.setitem(base.STEPS_BETWEEN_SYNCS, "cpu", 8)

    def net(x):  # its gradient is NaN wherever x is not one half
        away = (x - 0.5).abs().sum(1)
        return torch.stack([x.sum(1) + torch.where(away > 0, 0 * (away * 0).sqrt(), 0), 0 * away], 1)

    with pytest.raises(ValueError, match="not finite"):
        PGD(eps=0.1, steps=4, random_start=False)(net, torch.full((2, 3), 0.5), torch.tensor([0, 0]))
