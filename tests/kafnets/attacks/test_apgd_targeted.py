"""APGD-T: its targets, and networks of few classes."""

import pytest
import torch

from kafnets.attacks import APGDT
from kafnets.logits import is_correct, likely_wrong_classes
from kafnets.losses import targeted_dlr, targeted_margin

from .apgd_cases import linear


def test_most_likely_wrong_classes_against_sorting_by_hand():
    logits, y = torch.randn(50, 7), torch.randint(7, (50,))
    found = likely_wrong_classes(logits, y, 9).tolist()
    for row, label, classes in zip(logits.tolist(), y.tolist(), found, strict=True):
        assert classes == sorted(set(range(7)) - {label}, key=lambda j: -row[j])


def test_images_that_stay_correct_try_all_targets_in_order():
    met = []

    def watched(logits, y, target):
        met.append(target)
        return targeted_dlr(logits, y, target)

    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 2.0, 3.0]])
    x, y = torch.full((2, 4), 0.5), torch.zeros(2, dtype=torch.long)
    attack = APGDT(eps=0.01, steps=1, targets=2, targeted_loss=watched)
    attack(lambda x: x + logits[: len(x)], x, y)
    assert [target.tolist() for target in met] == [[1, 3], [1, 3], [2, 2], [2, 2]]  # the start and a step each
    met.clear()
    APGDT(eps=0.01, steps=1, targets=9, targeted_loss=watched)(lambda x: x + logits[: len(x)], x, y)
    assert len(met) == 2 * 3  # no more targets than wrong classes


def test_few_classes_need_another_loss_than_the_ratio():
    _, net = linear(classes=3)
    x = torch.rand(5, 30)
    y = net(x).argmax(1)
    with pytest.raises(ValueError, match="needs 4 classes or more, the network has 3"):
        APGDT(targeted_loss=targeted_dlr).for_classes(3)
    attack = APGDT(eps=0.5, steps=10, targeted_loss=targeted_margin)
    assert not is_correct(net(attack(net, x, y)), y).any()
