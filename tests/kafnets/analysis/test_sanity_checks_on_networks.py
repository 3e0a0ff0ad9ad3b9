"""Whole studies: checks complain about faulty networks and attacks, and a robust network passes them all."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from kafnets.activations import KWTA, ReLU
from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_study import ROLES, RobustnessStudy
from kafnets.analysis.sanity_checks import sanity_checks
from kafnets.attacks import FGSM, PGD, FiniteDifferences, Square
from kafnets.attacks.random_noise import UniformNoise
from kafnets.attacks.transfer import Transfer
from kafnets.backbones import KafVGG
from kafnets.keyed_random import image_keys
from kafnets.losses import margin

EPS, IMAGES = 0.1, 64


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(found.images).float()[order, None] / 16
    return images, torch.from_numpy(found.target).long()[order]


def trained(images, labels, activation, seed=0, epochs=6):
    """A small network after fast adversarial training on all but the first images."""
    torch.manual_seed(seed)
    net = KafVGG(activation=activation, width=8, hidden=32, image_size=8, in_channels=1, dropout=(0, 0, 0, 0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=epochs * 13)
    attack = FGSM(eps=EPS)
    for _ in range(epochs):
        for batch in (torch.randperm(1664) + 128).split(128):
            x_adv = attack.craft(net.train(), images[batch], labels[batch])
            optimizer.zero_grad()
            F.cross_entropy(net(x_adv), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return net.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def robust(digits):
    return trained(*digits, ReLU, epochs=15)


@pytest.fixture(scope="module")
def kwta(digits):
    return trained(*digits, lambda channels: KWTA(channels, ratio=0.15), epochs=10)


def study(**more):
    attack = PGD(eps=EPS, step_size=EPS / 4, steps=20)
    return RobustnessStudy(white_box=[attack], noise=UniformNoise(eps=EPS, restarts=20), **more)


def black_box():
    estimator = FiniteDifferences(sigma=EPS, samples={0: 50})
    gradient_free = PGD(eps=EPS, step_size=0.01, steps=20, random_start=False, loss=margin, estimator=estimator)
    return [Square(eps=EPS, queries=200), gradient_free]


def complaints(net, digits, *, curve_images=0, **more):
    """The names and statuses of the checks that complain, all checks, and what was measured."""
    x, y = (values[:IMAGES] for values in digits)
    index = torch.arange(IMAGES)
    keys, curves = image_keys(index, 0), index < curve_images
    found = study(**more).measure(net, x, y, index=index, keys=keys, curves=curves)
    checks = sanity_checks(found.outcomes, found.facts)
    return {check.name: check.status for check in checks if check.status in ("warn", "fail")}, checks, found


def test_a_robust_network_passes_every_check(robust, digits):
    twin = trained(*digits, ReLU, seed=1, epochs=2)
    transfer = Transfer(surrogate=twin, attack=PGD(eps=EPS, step_size=EPS / 4, steps=10))
    bad, checks, found = complaints(robust, digits, curve_images=32, black_box=black_box(), transfer=transfer)
    assert bad == {}
    assert all(check.status == "pass" for check in checks), "every check was run and passed"
    clean, worst = found.outcomes["clean"].mean(), found.outcomes.worst(*ROLES).mean()
    assert clean > 0.7 and 0.2 < worst < clean - 0.1, "the network is neither useless nor perfectly robust"


def test_kwta_is_caught(kwta, digits):
    bad, _, found = complaints(kwta, digits, black_box=black_box())
    assert bad["gradients predict what a small step does"] == "warn"
    assert bad["noise is not an attack"] == "warn"
    assert found.outcomes["clean"].mean() > 0.3


class Wrapped(nn.Module):
    """A network with another layer before or after it."""

    def __init__(self, net, first=None, last=None):
        super().__init__()
        self.net, self.first, self.last = net, first, last

    def forward(self, x):
        x = self.first(x) if self.first else x
        logits = self.net(x)
        return self.last(logits) if self.last else logits


def test_a_quantising_layer_is_caught(robust, digits):
    bad, *_ = complaints(
        Wrapped(robust, first=lambda x: (x * 8).round() / 8), digits, curve_images=8, black_box=black_box()
    )
    assert bad["gradients are neither zero nor non-finite"] == "fail"
    assert bad["gradients predict what a small step does"] == "warn"
    assert bad["the loss rises along the attack"] == "warn"
    assert bad["black box is not stronger than white box"] == "warn"


def test_huge_logits_are_caught(robust, digits):
    bad, *_ = complaints(Wrapped(robust, last=lambda logits: logits * 1e4), digits)
    assert bad["gradients are neither zero nor non-finite"] == "fail"


def test_probabilities_are_caught(robust, digits):
    bad, *_ = complaints(Wrapped(robust, last=lambda logits: logits.softmax(1)), digits)
    assert bad["outputs are logits"] == "fail"


def test_half_precision_inside_a_network_is_caught(robust, digits):
    bad, checks, _ = complaints(Wrapped(robust, last=lambda logits: logits.half().float()), digits)
    assert bad["no half precision on the attacked path"] == "warn"
    (check,) = (check for check in checks if check.name == "no half precision on the attacked path")
    assert "float16" in check.numbers and "autocast" in check.advice


def test_a_random_network_is_caught(robust, digits):
    torch.manual_seed(0)
    net = Wrapped(robust, last=lambda logits: logits + 2 * torch.randn_like(logits)).eval()
    bad, checks, _ = complaints(net, digits)
    assert bad == {"the same input gives the same output": "fail"}, "labels, gradients and attacks are not blamed"
    assert checks[0].name in bad


def test_training_mode_is_caught_and_named(digits):
    net = trained(*digits, ReLU, epochs=1)
    net.block1.bn_a.train()
    bad, checks, _ = complaints(net, digits)
    assert bad["no module is in training mode"] == "fail"
    assert bad["an output does not depend on the rest of the batch"] == "fail"
    assert bad["the evaluation changed nothing in the network"] == "fail"
    numbers = {check.name: check.numbers for check in checks}
    assert numbers["no module is in training mode"] == "block1.bn_a"
    assert "block1.bn_a.running_mean" in numbers["the evaluation changed nothing in the network"]


class WithoutLabels(PGD):
    """The mistake of the thesis: it attacks the predicted class."""

    def __call__(self, net, x, y, *, keys=None):
        return self.run(net, x, net(x).argmax(1), keys, early_stop=True)


class OutOfTheBall(PGD):
    def __call__(self, net, x, y, *, keys=None):
        return (x + 1.1 * self.eps * (0.5 - x).sign()).clamp(0, 1)


def test_an_attack_without_labels_is_caught(kwta, digits):
    x, y = (values[:IMAGES] for values in digits)
    index, curves = torch.arange(IMAGES), torch.zeros(IMAGES, dtype=torch.bool)
    attacks = [WithoutLabels(eps=EPS, steps=5), OutOfTheBall(eps=EPS, steps=6)]
    one = RobustnessStudy(white_box=attacks)
    found = one.measure(kwta, x, y, index=index, keys=image_keys(index, 0), curves=curves)
    checks = {check.name: check for check in sanity_checks(found.outcomes, found.facts)}
    assert checks["robust accuracy does not exceed clean"].status == "fail"
    assert "WithoutLabels-5-1" in checks["robust accuracy does not exceed clean"].numbers
    assert checks["adversarial images lie in the ball and in [0, 1]"].status == "fail"
    assert "OutOfTheBall-6-1" in checks["adversarial images lie in the ball and in [0, 1]"].numbers


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"white_box": []}, "at least one attack"),
        ({"white_box": [PGD()], "noise": UniformNoise(eps=0.1)}, "share one norm and one eps.*eps 8/255.*eps 0.1"),
        ({"white_box": [PGD(), PGD()]}, "two attacks are both white/PGD-50-1"),
        ({"white_box": [PGD(eps=0.0)]}, "eps must be > 0"),
    ],
)
def test_attacks_that_do_not_fit_together_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        RobustnessStudy(**settings)


def test_attacks_that_differ_in_their_loss_have_different_names():
    names = list(RobustnessStudy(white_box=[PGD(), PGD(loss=margin)]).attacks)
    assert [name for name in names if name.startswith("white")] == [
        "white/PGD-50-1 Linf eps 8/255",
        "white/PGD-50-1 Linf eps 8/255 (loss=margin)",
    ]


def test_batches_and_their_order_do_not_matter(robust, digits):
    x, y, index = digits[0][:12], digits[1][:12], torch.arange(12)
    few_steps = lambda attack: lambda value: PGD(eps=EPS, step_size=0.01, steps=3)  # noqa: E731
    quick = {"attack_at_eps": few_steps, "attack_at_steps": few_steps, "attack_at_restarts": few_steps}
    one = study(black_box=[Square(eps=EPS, queries=20)], **quick)

    def measured(i):
        keys, curves = image_keys(index[i], 0), index[i] < 3
        return one.measure(robust, x[i], y[i], index=index[i], keys=keys, curves=curves).outcomes

    whole, joined = measured(index), PerImageResults.join([measured(i) for i in index.flip(0).split(5)])
    assert set(whole.columns) == set(joined.columns)
    for name in whole.columns:
        if not name.startswith(("loss/", "probe/gain")):  # these are floating point
            torch.testing.assert_close(joined[name], whole[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_network_without_a_gradient_is_refused(robust, digits):
    x, y, index = digits[0][:4], digits[1][:4], torch.arange(4)
    with pytest.raises(ValueError, match="no gradient reaches the images"):
        study().measure(Wrapped(robust, last=lambda z: z.detach()), x, y, index=index, keys=image_keys(index, 0))


def test_a_network_that_overwrites_its_input_is_measured_like_one_that_does_not(robust, digits):
    x, y, index = digits[0][:4].clone(), digits[1][:4], torch.arange(4)

    class Shifted(nn.Module):
        def __init__(self, *, inplace):
            super().__init__()
            self.net, self.inplace = robust, inplace

        def forward(self, x):
            return self.net(x.mul_(0.5) if self.inplace else x * 0.5)

    few = lambda attack: lambda value: PGD(eps=EPS, steps=1)  # noqa: E731
    one = study(attack_at_eps=few, attack_at_steps=few, attack_at_restarts=few)
    plain, overwriting = (
        one.measure(Shifted(inplace=inplace), x, y, index=index, keys=image_keys(index, 0)).outcomes
        for inplace in (False, True)
    )
    for name, expected in plain.columns.items():
        torch.testing.assert_close(overwriting[name], expected, equal_nan=True, msg=name)


def test_attacks_may_use_another_network_and_the_network_itself_judges(digits):
    net = KafVGG(activation=ReLU, width=8, hidden=32, image_size=8, in_channels=1).eval()
    x, y, index = digits[0][:8], digits[1][:8], torch.arange(8)
    calls = []

    def constant(images):
        calls.append(len(images))
        return 0 * net(images) + F.one_hot(torch.zeros(len(images), dtype=torch.int64), 10)

    study = RobustnessStudy(white_box=[PGD(eps=EPS, steps=1)])
    settings = {"index": index, "keys": image_keys(index, 0), "curves": index < 0}
    found = study.measure(net, x, y, attacked=constant, **settings)
    assert calls
    assert torch.equal(found.outcomes["predicted"], net(x).argmax(1))
    (name,) = (name for name in study.attacks if name.startswith("white"))
    judged = net(study.attacks[name](constant, x, y, keys=settings["keys"])).argmax(1) == y
    assert torch.equal(found.outcomes[name].bool(), judged & (net(x).argmax(1) == y))
