"""On devices where reading a value is slow, attacks rarely read which images are still correct, and find the same."""

import functools

import pytest
import torch

from kafnets.attacks import APGD, APGDT, CW, FAB, MIFGSM, PGD, DeepFool, Square, base
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

ATTACKS = {
    "pgd": functools.partial(PGD, steps=20, step_size=0.02, restarts=2),
    "apgd": functools.partial(APGD, steps=20),
    "apgd_targeted": functools.partial(APGDT, steps=10, targets=3),
    "square": functools.partial(Square, queries=60),
    "mifgsm": functools.partial(MIFGSM, steps=20),
    "deepfool": functools.partial(DeepFool, steps=20),
    "fab": functools.partial(FAB, steps=20, classes=3),
    "cw": functools.partial(CW, steps=40, search_steps=2, step_size=0.05),
}
EPS = {"cw": 0.5}


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
        x_adv = ATTACKS[name](eps=EPS.get(name, 0.1))(counting, x, y, keys=keys)
        found[between] = x_adv, is_correct(net(x_adv), y), sum(batches)
    assert torch.equal(found[1][1], found[8][1]) and 0.1 < found[1][1].float().mean() < 0.9
    assert found[1][2] < found[8][2], "misclassified images stay in the batch between two syncs"
    if name == "pgd":
        torch.testing.assert_close(found[1][0], found[8][0], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"deepfool"}))  # which needs few steps
def test_a_device_is_waited_for_at_every_eighth_step(name, digits, monkeypatch, waits):
    net, x, _ = digits
    x = x[:20]
    monkeypatch.setitem(base.STEPS_BETWEEN_SYNCS, "cpu", 8)
    counts = []
    for steps in (8, 40):
        attack = ATTACKS[name](eps=1e-3)  # too small for errors, so that every step is taken
        setattr(attack, "queries" if name == "square" else "steps", steps)
        before = waits.count
        with waits:
            attack(net, x, net(x).argmax(1))
        counts.append(waits.count - before)
    searches = {"pgd": 2, "apgd_targeted": 3, "fab": 3, "cw": 2}.get(name, 1)
    per_sync = 2  # gradients that are not finite, and images that are misclassified
    assert counts[1] - counts[0] <= 4 * searches * per_sync


@pytest.mark.parametrize("name", ["pgd", "mifgsm", "apgd"])
def test_crafting_waits_for_nothing(name, digits, waits):
    net, x, y = digits
    attack = ATTACKS[name](eps=0.1)
    attack.restarts = 1
    attack.craft(net, x, y)  # constants are computed once
    with waits:
        attack.craft(net, x, y, keys=torch.arange(len(x)))
    assert waits.count == 0


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


BAD = {name: ATTACKS[name] for name in ("deepfool", "fab", "cw", "mifgsm")}


@pytest.mark.parametrize("name", BAD)
def test_every_gradient_attack_refuses_it_between_two_syncs(name, monkeypatch):
    monkeypatch.setitem(base.STEPS_BETWEEN_SYNCS, "cpu", 8)

    def net(x):  # its gradient is NaN wherever x is not one half
        away = (x - 0.5).abs().sum(1)
        return torch.stack([x.sum(1) + torch.where(away > 1e-5, 0 * (away * 0).sqrt(), 0), 0 * away + 0.1], 1)

    with pytest.raises(ValueError, match="not finite"):
        BAD[name](eps=0.1)(net, torch.full((2, 3), 0.5), torch.tensor([0, 0]))
