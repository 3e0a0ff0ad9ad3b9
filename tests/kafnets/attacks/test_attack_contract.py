"""What holds for every attack, norm, use and network."""

import copy
import functools
import inspect
import itertools
import json

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, ReLU
from kafnets.attacks import (
    APGD,
    APGDT,
    CW,
    EOT,
    FAB,
    FGSM,
    L1,
    L2,
    MIFGSM,
    PGD,
    AutoAttack,
    DeepFool,
    FiniteDifferences,
    GaussianNoise,
    Linf,
    SphereNoise,
    Square,
    Suite,
    Transfer,
    UniformNoise,
)
from kafnets.attacks.minimum_norm import MinimumNorm
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import dlr, margin
from kafnets.threat import ThreatModel


def surrogate(x):
    """Five classes, for images of any size and dtype."""
    bands = torch.stack([x.flatten(1)[:, k::5].mean(1) for k in range(5)], 1)
    return 9 * (bands - 0.5)


def transfer(*, norm, eps):
    return Transfer(surrogate=surrogate, attack=MIFGSM(norm=norm, eps=eps, steps=3))


def suite(**settings):
    return Suite({"apgd": APGD(steps=2, **settings), "square": Square(queries=3, **settings)}, batch_size=7)


# what is built of each: add an attack here, and everything below holds for it
ATTACKS = {
    "fgsm": FGSM,
    "fgsm_plain": functools.partial(FGSM, alpha=1.0, random_start=False),
    "fgsm_restarts": functools.partial(FGSM, restarts=2),
    "pgd": functools.partial(PGD, steps=4, step_size=0.04),
    "pgd_restarts": functools.partial(PGD, steps=2, step_size=0.06, restarts=3),
    "pgd_from_the_image": functools.partial(PGD, steps=3, step_size=0.05, random_start=False),
    "pgd_eot": functools.partial(PGD, steps=2, step_size=0.1, estimator=EOT(2)),
    "pgd_differences": functools.partial(
        PGD, steps=2, step_size=0.1, loss=margin, estimator=FiniteDifferences(sigma=0.1, samples={0: 20})
    ),
    "apgd": functools.partial(APGD, steps=4),
    "apgd_dlr_restarts": functools.partial(APGD, steps=3, restarts=2, loss=dlr),
    "apgd_targeted": functools.partial(APGDT, steps=3, targets=2),
    "square": functools.partial(Square, queries=8),
    "suite": lambda norm, eps: suite(norm=norm, eps=eps),
    "fab_targeted": functools.partial(FAB, steps=6, classes=2),
    "fab_restarts": functools.partial(FAB, steps=4, targeted=False, random_start=True, restarts=2),
    "deepfool": functools.partial(DeepFool, steps=6),
    "cw": functools.partial(CW, steps=20, search_steps=3, step_size=0.05, first_constant=1.0),
    "mifgsm": functools.partial(MIFGSM, steps=4),
    "mifgsm_transferred": transfer,
    "noise_uniform": functools.partial(UniformNoise, restarts=3),
    "noise_sphere": functools.partial(SphereNoise, restarts=5),
    "noise_gaussian": functools.partial(GaussianNoise, restarts=2),
}
NORMS = {"linf": (Linf(), 0.1), "l2": (L2(), 0.7), "l1": (L1(), 4.0)}
ONLY_IN = {"cw": ("l2",)}  # all others work in every norm


def conv_net(activation):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        activation(4),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        activation(6),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, 5),
    )


NETS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 5)),
    "relu": functools.partial(conv_net, ReLU),
    "kaf": functools.partial(conv_net, functools.partial(KAF, free=True)),
    "kwta": functools.partial(conv_net, functools.partial(KWTA, ratio=0.3)),
}


def in_training(name):
    """A network in the middle of training: one frozen part, some gradients, a mode of its own for each module."""
    torch.manual_seed(1)
    net = NETS[name]().train()
    frozen = next((module for module in list(net)[3:] if isinstance(module, nn.BatchNorm2d)), net[-1])
    frozen.eval().requires_grad_(False)
    next(iter(net.parameters())).grad = torch.randn_like(next(iter(net.parameters())))
    return net


def build(attack, norm, **kwargs):
    """The attack, with those of the settings that it has."""
    norm, eps = NORMS[norm]
    has, settings = inspect.signature(ATTACKS[attack]).parameters, {"norm": norm, "eps": eps, **kwargs}
    return ATTACKS[attack](**{name: value for name, value in settings.items() if name in has})


def evaluate(attack, net, x, y, *, keys=None):
    return attack(net, x, y, keys=keys)


def craft(attack, net, x, y, *, keys=None, eval_mode=True):
    if attack.restarts > 1:  # refused in training: see test_training_takes_one_start
        attack = copy.copy(attack)
        attack.restarts = 1
    return attack.craft(net, x, y, keys=keys, eval_mode=eval_mode)


# the ways to use an attack: to measure, and to train with the network in evaluation mode or as it is found
USES = {"evaluate": evaluate, "craft_eval": craft, "craft_as_found": functools.partial(craft, eval_mode=False)}


def batch(n=12, dtype=torch.float32):
    """Images with black, white and 8-bit pixels among them, labels and keys."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(n, 3, 6, 6, generator=generator)
    x[: n // 3] = (x[: n // 3] * 255).round() / 255
    x[n // 3, 0], x[n // 3, 1] = 0, 1
    return x.to(dtype), torch.randint(5, (n,), generator=generator), image_keys(torch.arange(n), 3)


def snapshot(net):
    """Everything an attack must leave alone: object identities, flags and values."""
    tensors = [*net.parameters(), *net.buffers()]
    grads = [parameter.grad for parameter in net.parameters()]
    facts = [(id(t), t.requires_grad, t._version) for t in net.parameters()]
    facts += [(id(b), b.requires_grad) for b in net.buffers()]
    facts += [(id(module), module.training) for module in net.modules()] + [id(grad) for grad in grads]
    return facts, [t.detach().clone() for t in [*tensors, *(g for g in grads if g is not None)]]


def assert_unchanged(net, before):
    facts, values = snapshot(net)
    assert facts == before[0]
    for now, then in zip(values, before[1], strict=True):
        assert torch.equal(now, then)


def assert_inside(x_adv, x, norm, eps):
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    for delta in (x_adv - x, x_adv.double() - x.double()):
        assert norm.size(delta).max().item() <= eps


CASES = [(attack, norm) for attack, norm in itertools.product(ATTACKS, NORMS) if norm in ONLY_IN.get(attack, NORMS)]
every_attack = pytest.mark.parametrize(("attack", "norm"), CASES)
every_use = pytest.mark.parametrize("use", USES)
in_eval_mode = pytest.mark.parametrize("use", ["evaluate", "craft_eval"])


@every_attack
@every_use
@pytest.mark.parametrize("net", ["relu", "kaf", "kwta"])
def test_inside_the_ball_and_the_network_untouched(attack, norm, use, net):
    net, (x, y, keys) = in_training(net), batch()
    before, given = snapshot(net), (x.clone(), y.clone(), keys.clone())
    attack = build(attack, norm)
    x_adv = USES[use](attack, net, x, y, keys=keys)
    assert (x_adv.shape, x_adv.dtype, x_adv.device) == (x.shape, x.dtype, x.device)
    assert not x_adv.requires_grad
    # to measure, and in search of the nearest error, an image that is wrong as it is comes back as it is
    if use != "evaluate" and not isinstance(attack, (MinimumNorm, Suite)):
        assert not torch.equal(x_adv, x)
    assert_inside(x_adv, x, *NORMS[norm])
    assert_unchanged(net, before)
    assert all(torch.equal(now, then) for now, then in zip((x, y, keys), given, strict=True))


@every_attack
def test_finds_errors_and_loses_none(attack, norm):
    torch.manual_seed(1)
    net, (x, _, keys) = NETS["linear"]().eval(), batch(60)
    y = net(x).argmax(1).where(torch.arange(60) > 5, 0)  # the true class for most, not for all
    right = is_correct(net(x), y)
    right_attacked = is_correct(net(build(attack, norm)(net, x, y, keys=keys)), y)
    assert not bool((right_attacked & ~right).any())
    assert right_attacked.sum() < right.sum()


@every_attack
@every_use
def test_same_keys_same_attack(attack, norm, use):
    (x, y, keys), net = batch(), in_training("linear")
    attack = functools.partial(USES[use], build(attack, norm))
    assert torch.equal(attack(net, x, y, keys=keys), attack(net, x, y, keys=keys))


@every_attack
@in_eval_mode
@pytest.mark.parametrize("net", ["kaf"])
def test_an_image_is_attacked_alike_in_any_batch(attack, norm, use, net):
    net, (x, y, keys) = in_training(net).double(), batch(dtype=torch.float64)
    attack = functools.partial(USES[use], build(attack, norm))
    whole = attack(net, x, y, keys=keys)
    parts = [attack(net, *part[:2], keys=part[2]) for part in zip(x.split(5), y.split(5), keys.split(5), strict=True)]
    order = torch.randperm(len(x))
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(attack(net, x[order], y[order], keys=keys[order]), whole[order])


@every_attack
@every_use
@pytest.mark.parametrize("outer", [torch.inference_mode, torch.no_grad], ids=["inference_mode", "no_grad"])
def test_inside_inference_mode_and_no_grad(attack, norm, use, outer):
    net, (x, y, keys) = in_training("relu"), batch()
    attack, before = functools.partial(USES[use], build(attack, norm)), snapshot(net)
    torch.manual_seed(4)
    expected = attack(net, x, y, keys=keys)
    torch.manual_seed(4)
    with outer():
        found = attack(net, x.clone(), y.clone(), keys=keys.clone())  # in inference mode, inference tensors
        assert torch.equal(found, expected)
    assert not found.is_inference()
    assert_unchanged(net, before)


@every_attack
@in_eval_mode
def test_float64_images_stay_float64(attack, norm, use):
    net, (x, y, keys) = in_training("relu").double(), batch(dtype=torch.float64)
    x_adv = USES[use](build(attack, norm), net, x, y, keys=keys)
    assert x_adv.dtype == torch.float64
    assert_inside(x_adv, x, *NORMS[norm])


@every_attack
@every_use
def test_inside_autocast(attack, norm, use):
    net, (x, y, keys) = in_training("relu"), batch()
    before = snapshot(net)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = USES[use](build(attack, norm), net, x, y, keys=keys)
        assert x_adv.dtype == torch.float32
        assert_inside(x_adv, x, *NORMS[norm])
        assert_unchanged(net, before)
        net(x_adv).sum().backward()  # the weights autocast has cached still lead to the parameters
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


@every_attack
def test_an_empty_batch_gives_an_empty_batch(attack, norm):
    net, (x, y, keys) = in_training("relu"), batch()
    x_adv = build(attack, norm)(net, x[:0], y[:0], keys=keys[:0])
    assert (x_adv.shape, x_adv.dtype) == ((0, 3, 6, 6), x.dtype)
    assert build(attack, norm)(net, x[:0], y[:0]).shape == x_adv.shape


@every_attack
def test_a_plain_function_and_flat_images_will_do(attack, norm):
    weight = torch.randn(20, 5)
    x, y = torch.rand(7, 20), torch.randint(5, (7,))
    x_adv = build(attack, norm)(lambda images: images @ weight, x, y)
    assert x_adv.shape == x.shape
    assert_inside(x_adv, x, *NORMS[norm])


@every_attack
def test_no_eps_no_change(attack, norm):
    x, y, keys = batch()
    for use in USES.values():
        assert torch.equal(use(build(attack, norm, eps=0), in_training("relu"), x, y, keys=keys), x)


@pytest.mark.parametrize("norm", NORMS)
def test_keys_and_restarts_choose_the_start(norm):
    x, y, keys = batch()
    starts = []

    class Start(PGD):
        def run(self, net, x, y, keys, *, early_stop):
            starts.append(self.norm.random_start(x, self.eps, keys))
            return starts[-1]

    net = in_training("linear").eval()
    with torch.no_grad():
        y = net(x).argmax(1)  # an image that is wrong as it is meets no start
    attack = Start(norm=NORMS[norm][0], eps=1e-9, restarts=2)
    for other_keys in (keys, image_keys(torch.arange(len(x)), 99)):
        attack(net, x, y, keys=other_keys)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(starts, 2))


@pytest.mark.parametrize("norm", NORMS)
def test_without_keys_the_torch_seed_decides_and_with_keys_it_is_not_touched(norm):
    net, (x, y, keys) = in_training("linear"), batch()
    attack, found = build("fgsm", norm).craft, []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(attack(net, x, y))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    state = torch.get_rng_state()
    attack(net, x, y, keys=keys)
    assert torch.equal(torch.get_rng_state(), state)


@every_attack
def test_every_attack_says_its_settings(attack, norm):
    found = json.loads(json.dumps(build(attack, norm).settings()))
    assert (found["eps"], found["norm"].lower()) == (NORMS[norm][1], norm)
    assert "object at 0x" not in json.dumps(found)


def test_settings_are_json_ready():
    found = json.loads(json.dumps(PGD(eps="8/255", steps=3, norm=L2()).settings()))
    assert found["attack"] == "PGD"
    assert (found["eps"], found["steps"], found["norm"], found["loss"]) == (8 / 255, 3, "L2", "cross_entropy")


class MyPGD(PGD):
    """An attack of one's own."""


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (PGD(), "PGD-50-1 Linf eps 8/255"),
        (PGD(restarts=10, random_start=False), "PGD-50-10 Linf eps 8/255 (random_start=False)"),
        (PGD(step_size="1/255", loss=margin), "PGD-50-1 Linf eps 8/255 (step_size=1/255, loss=margin)"),
        (PGD(estimator=EOT(5)), "PGD-50-1 Linf eps 8/255 (estimator=EOT(samples=5))"),
        (MyPGD(steps=3), "MyPGD-3-1 Linf eps 8/255"),
        (FGSM(eps=0.031, norm=L2()), "FGSM L2 eps 0.031"),
        (FGSM(alpha=1.0), "FGSM Linf eps 8/255 (alpha=1)"),
        (APGDT(targets=3), "APGDT-100-1 Linf eps 8/255 (targets=3)"),
        (FAB(targeted=False), "FAB-100-1 Linf eps 8/255 (targeted=False)"),
        (CW(steps=9), "CW-9-9 L2 eps 0.5"),
        (Suite({"a": PGD(), "b": FGSM()}), "Suite(a, b) Linf eps 8/255"),
        (
            Transfer(surrogate=surrogate, attack=FGSM()),
            "Transfer Linf eps 8/255 (surrogate=surrogate, attack=FGSM Linf eps 8/255)",
        ),
    ],
    ids=str,
)
def test_a_name_says_the_class_the_ball_and_every_setting_that_is_not_the_default(attack, name):
    assert str(attack) == attack.label == name


# --- the two uses ----------------------------------------------------------------------------------------------------


def test_training_moves_images_that_are_wrong_already():
    net, (x, _, keys) = NETS["linear"]().eval(), batch()
    with torch.no_grad():
        wrong = (net(x).argmax(1) + 1) % 5
    for attack in (PGD(steps=7), FGSM(), MIFGSM()):
        assert torch.equal(attack(net, x, wrong, keys=keys), x)
        assert (attack.craft(net, x, wrong, keys=keys) != x).flatten(1).any(1).all()


def test_training_takes_one_start():
    (x, y, keys), net = batch(), in_training("linear")
    with pytest.raises(ValueError, match=r"PGD-50-10 .*training takes one start per image, got restarts=10"):
        PGD(restarts=10).craft(net, x, y, keys=keys)


def test_soft_targets_reach_the_loss_row_by_row():
    (x, _, keys), net = batch(), NETS["linear"]().eval()
    soft = torch.rand(len(x), 5).softmax(1)

    def cross_entropy_with(logits, target):
        return -(target * logits.log_softmax(1)).sum(1)

    attack = PGD(steps=3, eps=0.1, loss=cross_entropy_with)
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


# --- the threat model ------------------------------------------------------------------------------------------------


@every_attack
def test_the_threat_model_of_a_run_fills_in_the_ball(attack, norm):
    if attack in ("suite", "mifgsm_transferred"):
        pytest.skip("built from attacks that have a ball of their own")
    threat = ThreatModel(*NORMS[norm])
    open_attack = ATTACKS[attack]()
    bound = open_attack.within(threat)
    assert (bound.threat, open_attack.threat) == (threat, open_attack.default_threat)
    x, y, keys = batch()
    net = in_training("linear").eval()
    given = {} if attack == "pgd_differences" else {"settings": build(attack, norm).settings()}
    assert given in ({}, {"settings": bound.settings()})
    assert torch.equal(bound(net, x, y, keys=keys), build(attack, norm)(net, x, y, keys=keys))


def test_what_an_attack_states_itself_is_its_own():
    threat = ThreatModel(L2(), 0.5)
    assert PGD(eps=0.1).within(threat).threat == ThreatModel(L2(), 0.1)
    assert PGD(norm=Linf()).within(threat).threat == ThreatModel(Linf(), 0.5)
    with pytest.raises(ValueError, match="CW minimises an L2 distance"):
        CW().within(ThreatModel())


def test_what_follows_from_the_ball_follows_the_threat_model():
    threat = ThreatModel(eps="4/255")
    assert PGD().within(threat).step_size == 1 / 255
    assert PGD(step_size="2/255").within(threat).step_size == 2 / 255
    assert FGSM(alpha=1.25).within(threat).step_size == 5 / 255
    assert MIFGSM(steps=4).within(threat).step_size == 1 / 255
    assert GaussianNoise().within(threat).sigma == 4 / 255
    assert PGD(estimator=FiniteDifferences()).within(threat).estimator.sigma == 4 / 255
    assert PGD(estimator=EOT(2, FiniteDifferences())).within(threat).estimator.of.sigma == 4 / 255
    assert PGD(estimator=FiniteDifferences(sigma=0.1)).within(threat).estimator.sigma == 0.1
    assert {a.eps for a in AutoAttack().within(threat).attacks.values()} == {4 / 255}
    assert AutoAttack().within(ThreatModel(L1(), 12)).attacks["APGD-CE"].restarts == 5
    assert Suite({"a": PGD()}).within(threat).attacks["a"].eps == 4 / 255
    assert Transfer(surrogate=surrogate, attack=PGD()).within(threat).attack.eps == 4 / 255
