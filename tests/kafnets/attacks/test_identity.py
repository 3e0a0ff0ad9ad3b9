"""The identity of networks and attacks: whatever changes answers changes it, and nothing else does."""

import copy
import functools
import threading
import weakref

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, ReLU
from kafnets.attacks import APGD, EOT, FGSM, PGD, AutoAttack, Transfer
from kafnets.attacks.identity import identity, identity_digest
from kafnets.backbones import KafVGG
from kafnets.fused import Fused
from kafnets.losses import cross_entropy, dlr

FACTOR = 1.0
LINEAR = nn.Linear(3, 2)


def times(logits, y, factor=1.0):
    return factor * cross_entropy(logits, y)


def scaled(factor):
    return lambda logits, y: factor * cross_entropy(logits, y)


class Wrapped(nn.Module):
    def __init__(self, net, **more):
        super().__init__()
        self.net = net
        vars(self).update(more)

    def forward(self, x):
        return self.net(x)


def linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


def hooked(change):
    net = linear()
    net.register_forward_hook(lambda module, inputs, output: output * change)
    return net


def buffered(value):
    net = linear()
    net.register_buffer("scale", torch.full((1,), value), persistent=False)
    return net


# builds of the same, and one of another
PAIRS = {
    "lambdas of other code": (
        lambda: PGD(loss=lambda z, y: cross_entropy(z, y)),
        lambda: PGD(loss=lambda z, y: -cross_entropy(z, y)),
    ),
    "lambdas of other constants": (lambda: PGD(loss=lambda z, y: z * 2), lambda: PGD(loss=lambda z, y: z * 3)),
    "closures": (lambda: PGD(loss=scaled(1)), lambda: PGD(loss=scaled(2))),
    "partials": (
        lambda: PGD(loss=functools.partial(times, factor=1)),
        lambda: PGD(loss=functools.partial(times, factor=2)),
    ),
    "losses": (lambda: APGD(), lambda: APGD(loss=dlr)),
    "estimators": (lambda: PGD(estimator=EOT(2)), lambda: PGD(estimator=EOT(3))),
    "orders": (lambda: {"a": FGSM(), "b": PGD()}, lambda: {"b": PGD(), "a": FGSM()}),
    "versions": (lambda: AutoAttack(), lambda: AutoAttack("plus")),
    "surrogates": (
        lambda: Transfer(surrogate=linear(), attack=FGSM()),
        lambda: Transfer(surrogate=nn.Linear(3, 2), attack=FGSM()),
    ),
    "attributes": (lambda: Wrapped(linear(), scale=1.0), lambda: Wrapped(linear(), scale=2.0)),
    "sets": (lambda: Wrapped(linear(), names={"x", "y", "z"}), lambda: Wrapped(linear(), names={"z", "y"})),
    "lists of layers": (lambda: Wrapped(None, nets=[linear()]), lambda: Wrapped(None, nets=[nn.Linear(3, 2)])),
    "hooks": (lambda: hooked(1), lambda: hooked(2)),
    "buffers": (lambda: buffered(1.0), lambda: buffered(2.0)),
    "layers without parameters": (
        lambda: nn.Sequential(linear(), nn.ReLU()),
        lambda: nn.Sequential(linear(), nn.SiLU()),
    ),
    "references": (lambda: Wrapped(None, it=weakref.ref(LINEAR)), lambda: Wrapped(None, it=weakref.ref(PGD))),
    "fused networks": (lambda: Fused(linear()), lambda: Fused(nn.Linear(3, 2))),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_changes_answers_changes_the_identity(pair):
    build, other = PAIRS[pair]
    assert identity("it", build()) == identity("it", build())
    assert identity("it", build()) != identity("it", other())
    assert not any("0x" in name + text for name, text in identity("it", build()).items())


def test_globals_and_code_that_a_network_uses_belong_to_it(monkeypatch):
    class Net(nn.Module):
        def forward(self, x):
            return FACTOR * LINEAR(x)

    before = identity_digest(Net())
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    other = identity_digest(Net())
    monkeypatch.undo()
    assert identity_digest(Net()) == before != other
    with torch.no_grad():
        LINEAR.weight.add_(1)
    assert identity_digest(Net()) != before
    LINEAR.weight.data.sub_(1)
    Net.forward = lambda self, x: LINEAR(x)
    assert identity_digest(Net()) != before


def test_use_and_mode_and_copies_do_not_change_it():
    net = KafVGG(activation=KAF, width=4, hidden=8, image_size=8)
    before = identity_digest(net)
    net.eval()(torch.rand(2, 3, 8, 8, requires_grad=True)).sum().backward()
    assert identity_digest(net) == before == identity_digest(copy.deepcopy(net)) == identity_digest(torch.compile(net))
    assert before != identity_digest(net.double())


def test_the_text_of_a_name_does_not_belong_to_a_network():
    sizes = {"width": 4, "hidden": 8, "image_size": 8}
    digests = []
    for activation in (ReLU, functools.partial(ReLU)):  # as Python and as a configuration give it
        torch.manual_seed(0)
        digests.append(identity_digest(KafVGG(activation=activation, **sizes)))
    assert digests[0] == digests[1]


def test_an_object_may_contain_itself():
    net = Wrapped(linear())
    net.parts = [net]
    assert identity("net", net)


def test_what_cannot_be_told_apart_is_refused_by_name():
    with pytest.raises(ValueError, match=r"network.lock is a _thread.lock, which can't be told from another one"):
        identity("network", Wrapped(linear(), lock=threading.Lock()))
    assert identity_digest(Wrapped(linear(), lock=threading.Lock())) is None
