"""Networks that overwrite their input, and networks through which no gradient comes back."""

import warnings

import pytest
import torch
from torch import nn

from kafnets.attacks import APGD, APGDT, BPDA, CW, FAB, FGSM, L2, MIFGSM, PGD, DeepFool, Linf, Square, Suite
from kafnets.attacks.gradient_estimators import EOT, FiniteDifferences
from kafnets.keyed_random import image_keys
from kafnets.objectives import TRADES, Adversarial, Batch, GradAlign
from kafnets.threat import ThreatModel

from .attack_cases import CASES, batch, build

WEIGHT = torch.randn(3 * 6 * 6, 5, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """Normalises its input in place or not, then is linear."""

    def __init__(self, *, inplace):
        super().__init__()
        self.inplace = inplace
        self.linear = nn.Linear(3 * 6 * 6, 5, bias=False)
        self.linear.weight.data = WEIGHT.T.clone()

    def forward(self, x):
        x = x.sub_(0.5).div_(0.25) if self.inplace else x.sub(0.5).div(0.25)
        return self.linear(x.flatten(1))


def labelled():
    x, _, keys = batch(8)
    return x, Linear(inplace=False)(x).argmax(1), keys


@pytest.mark.parametrize(
    ("attack", "norm"), [(name, norm) for name, norm in CASES if norm == ("l2" if name == "cw" else "linf")]
)
@pytest.mark.parametrize("use", ["evaluate", "craft"])
def test_a_network_that_overwrites_its_input_gives_the_same_images(attack, norm, use):
    x, y, keys = labelled()
    given, found = x.clone(), []
    for inplace in (False, True):
        made = build(attack, norm)
        if use == "craft":
            made.restarts = 1
        found.append((made if use == "evaluate" else made.craft)(Linear(inplace=inplace), x, y, keys=keys))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
    assert torch.equal(x, given)


@pytest.mark.parametrize("objective", [Adversarial(), TRADES(steps=2), GradAlign()], ids=lambda one: one.label)
def test_training_on_a_network_that_overwrites_its_input(objective):
    x, y, keys = labelled()
    b = Batch(x, y, keys, epoch=0.0, threat=ThreatModel(Linf(), 0.1))
    plain, overwriting = (objective(Linear(inplace=inplace), b) for inplace in (False, True))
    torch.testing.assert_close(overwriting.loss, plain.loss)
    torch.testing.assert_close(overwriting.inputs, plain.inputs)


def test_a_substitute_sees_the_input_that_an_inplace_module_overwrites():
    x, y, keys = labelled()
    found = []
    for inplace in (False, True):
        net = nn.Sequential(nn.Flatten(), nn.Threshold(2.0, 0.1, inplace=inplace), Linear(inplace=False))
        attack = BPDA(attack=PGD(eps=0.1, steps=2), substitutes=lambda net: {net[1]: lambda x: x})
        found.append(attack.craft(net, x, y, keys=keys))
    assert torch.equal(*found) and not torch.equal(found[0], x)


def detached(x):
    return x.detach().flatten(1) @ WEIGHT


def detached_inside(x):  # the logits have a graph, but not to the images
    return x.detach().flatten(1) @ WEIGHT.clone().requires_grad_(True)


def zeroed(x):
    return x.detach().flatten(1) @ WEIGHT + 0 * x.sum()


GRADIENT_ATTACKS = {
    "pgd": PGD(steps=3),
    "eot": PGD(steps=2, estimator=EOT(2)),
    "fgsm": FGSM(restarts=2),
    "mifgsm": MIFGSM(steps=3),
    "apgd": APGD(steps=3),
    "apgd_targeted": APGDT(steps=3, targets=2),
    "fab": FAB(steps=3, targeted=False),
    "fab_targeted": FAB(steps=3),
    "deepfool": DeepFool(steps=3),
    "cw": CW(steps=3, search_steps=2),
    "suite": Suite({"pgd": PGD(steps=3)}),
}
OUTPUTS_ALONE = {
    "square": Square(queries=3, eps=0.01),
    "differences": PGD(steps=2, eps=0.01, estimator=FiniteDifferences(samples={0: 4})),
}


def in_a_small_ball(attack):
    return attack.within(ThreatModel(L2() if isinstance(attack, CW) else Linf(), 1e-4))


@pytest.mark.parametrize("net", [detached, detached_inside])
@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_without_a_path_for_gradients_every_gradient_attack_is_an_error(name, net):
    x, _, _ = batch(8)
    attack = in_a_small_ball(GRADIENT_ATTACKS[name])
    with pytest.raises(ValueError, match=r"no gradient reaches the images.*Square"):
        attack(net, x, net(x).argmax(1))
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        attack.craft(net, x, net(x).argmax(1)) if attack.restarts == 1 else attack(net, x, net(x).argmax(1))


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_gradients_that_are_all_zero_are_a_warning(name):
    x, _, _ = batch(8)
    attack = in_a_small_ball(GRADIENT_ATTACKS[name])
    with pytest.warns(UserWarning, match="gradient is exactly zero at every image that is still .* Square"):
        attack(zeroed, x, zeroed(x).argmax(1))


@pytest.mark.parametrize("name", OUTPUTS_ALONE)
def test_attacks_that_use_outputs_alone_need_no_gradient(name):
    x, _, _ = batch(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OUTPUTS_ALONE[name](detached, x, detached(x).argmax(1))


def test_zero_gradients_at_images_that_other_steps_fool_are_no_warning():
    x, y, keys = labelled()
    attack, net = PGD(eps=0.2, steps=20), Linear(inplace=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(net, x, y, keys=keys)
        attack(zeroed, x, (zeroed(x).argmax(1) + 1) % 5, keys=keys)  # misclassified from the start


def test_the_last_step_decides_whether_gradients_are_zero():
    """The first image has a gradient and is fooled; the others have none, and are left."""

    def net(x):
        gap = torch.where(x[:, 0] < 0.5, x[:, 0] - 0.01, 0 * x[:, 0] + 1)
        return torch.stack([gap, 0 * gap], 1)

    x = torch.tensor([[0.05], [0.9], [0.9]])
    with pytest.warns(UserWarning, match="PGD-5-1 Linf eps 0.1: the gradient is exactly zero"):
        x_adv = PGD(eps=0.1, steps=5)(net, x, torch.zeros(3, dtype=torch.long), keys=image_keys(torch.arange(3), 0))
    assert net(x_adv).argmax(1).tolist() == [1, 0, 0]
