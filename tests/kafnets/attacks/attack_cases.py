"""Every attack with small settings, networks and images to try it on."""

import functools
import inspect
import itertools

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
from kafnets.keyed_random import image_keys
from kafnets.losses import dlr, margin


def surrogate(x):
    """Five classes, for images of any size and dtype."""
    bands = torch.stack([x.flatten(1)[:, k::5].mean(1) for k in range(5)], 1)
    return 9 * (bands - 0.5)


def transfer(*, norm, eps):
    return Transfer(surrogate=surrogate, attack=MIFGSM(norm=norm, eps=eps, steps=3))


def suite(**settings):
    return Suite({"apgd": APGD(steps=2, **settings), "square": Square(queries=3, **settings)}, batch_size=7)


# add an attack here, and the tests of every attack run on it
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
    # trained dictionaries, ties and zero slopes in one network
    "kaf_and_kwta": lambda: nn.Sequential(*NETS["kaf"]()[:3], *NETS["kwta"]()[3:]),
}


def in_training(name):
    """A network in the middle of training: in training mode except for one frozen module, with some gradients."""
    torch.manual_seed(1)
    net = NETS[name]().train()
    frozen = next((module for module in list(net)[3:] if isinstance(module, nn.BatchNorm2d)), net[-1])
    frozen.eval().requires_grad_(False)
    next(iter(net.parameters())).grad = torch.randn_like(next(iter(net.parameters())))
    return net


def build(attack, norm, **kwargs):
    """The attack in a norm, with those of the other settings that it takes."""
    norm, eps = NORMS[norm]
    has, settings = inspect.signature(ATTACKS[attack]).parameters, {"norm": norm, "eps": eps, **kwargs}
    return ATTACKS[attack](**{name: value for name, value in settings.items() if name in has})


def batch(n=12, dtype=torch.float32):
    """Images, among them black, white and 8-bit ones, labels and keys."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(n, 3, 6, 6, generator=generator)
    x[: n // 3] = (x[: n // 3] * 255).round() / 255
    x[n // 3, 0], x[n // 3, 1] = 0, 1
    return x.to(dtype), torch.randint(5, (n,), generator=generator), image_keys(torch.arange(n), 3)


CASES = [(attack, norm) for attack, norm in itertools.product(ATTACKS, NORMS) if norm in ONLY_IN.get(attack, NORMS)]
every_attack = pytest.mark.parametrize(("attack", "norm"), CASES)
# every attack in one norm and every norm, for what does not depend on both
IN_TURN = [
    (attack, ONLY_IN.get(attack, [*NORMS])[turn % len(ONLY_IN.get(attack, NORMS))])
    for turn, attack in enumerate(ATTACKS)
]
every_attack_in_one_norm = pytest.mark.parametrize(("attack", "norm"), IN_TURN)
