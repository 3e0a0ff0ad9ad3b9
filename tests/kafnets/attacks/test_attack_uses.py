"""The two uses of an attack: to measure, and to make images to train on."""

import pytest
import torch

from kafnets.attacks import APGD, EOT, FGSM, MIFGSM, PGD, FiniteDifferences, Square

from .attack_cases import NETS, batch, in_training


def test_training_moves_images_that_are_misclassified_already():
    net, (x, _, keys) = NETS["linear"]().eval(), batch()
    with torch.no_grad():
        wrong = (net(x).argmax(1) + 1) % 5
    for attack in (PGD(steps=7), FGSM(), MIFGSM()):
        assert torch.equal(attack(net, x, wrong, keys=keys), x)
        assert (attack.craft(net, x, wrong, keys=keys) != x).flatten(1).any(1).all()


def test_training_refuses_restarts():
    (x, y, keys), net = batch(), in_training("linear")
    with pytest.raises(ValueError, match=r"PGD-50-10 .*training takes one start per image, got restarts=10"):
        PGD(restarts=10).craft(net, x, y, keys=keys)


@pytest.mark.parametrize("estimator", [None, EOT(2), FiniteDifferences(sigma=0.05, samples={0: 200})], ids=str)
def test_soft_targets_reach_the_loss_row_by_row(estimator):
    (x, _, keys), net = batch(), NETS["linear"]().eval()
    soft = torch.rand(len(x), 5).softmax(1)

    def cross_entropy_with(logits, target):
        return -(target * logits.log_softmax(1)).sum(1)

    attack = PGD(steps=3, eps=0.1, loss=cross_entropy_with, estimator=estimator)
    whole = attack.craft(net, x, soft, keys=keys)
    parts = [
        attack.craft(net, *part[:2], keys=part[2])
        for part in zip(x.split(5), soft.split(5), keys.split(5), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    with torch.no_grad():
        assert bool((cross_entropy_with(net(whole), soft) > cross_entropy_with(net(x), soft)).all())
    for refuses in (APGD(), Square()):
        with pytest.raises(ValueError, match="labels must be int64"):
            refuses.craft(net, x, soft, keys=keys)
    with pytest.raises(ValueError, match=r"targets \(12, 4\) do not fit logits of shape \(12, 5\)"):
        attack.craft(net, x, soft[:, :4], keys=keys)
