"""Attacks on a surrogate, judged on the network."""

import json

import torch
from torch import nn

from kafnets.attacks import L2, PGD
from kafnets.attacks.mifgsm import MIFGSM
from kafnets.attacks.transfer import Transfer
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

X = 0.4 + 0.2 * torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
W = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5])
Y = torch.zeros(40, dtype=torch.long)


def linear(w, offset=0.3):
    return lambda x: torch.stack([(x - 0.5) @ w + offset, 0 * x[:, 0]], 1)


def masked(x):
    """The same decisions as ``linear(W)``, without a gradient."""
    return linear(W)(x).sign().detach() + 0 * x[:, :2]


ATTACK = {"eps": 0.15}


def test_a_masked_network_is_fooled_through_a_surrogate_only():
    right = is_correct(masked(X), Y)
    assert right.any()
    assert torch.equal(is_correct(masked(MIFGSM(eps=0.15)(masked, X, Y)), Y), right)
    attack = Transfer(surrogate=linear(W), attack=MIFGSM(**ATTACK))
    assert not is_correct(masked(attack(masked, X, Y)), Y).any()


def test_a_useless_surrogate_changes_nothing():
    attack = Transfer(surrogate=linear(-W), attack=MIFGSM(**ATTACK))
    found = attack(linear(W), X, Y)
    assert torch.equal(found, X)
    assert torch.equal(is_correct(linear(W)(found), Y), is_correct(linear(W)(X), Y))


def test_both_networks_are_unchanged():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train() for _ in range(2)]
    states = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    Transfer(surrogate=nets[1], attack=MIFGSM(**ATTACK))(nets[0], X, Y)
    for net, state in zip(nets, states, strict=True):
        assert net.training
        assert all(p.grad is None for p in net.parameters())
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_keys_reach_the_attack_on_the_surrogate():
    attack = Transfer(surrogate=linear(W), attack=PGD(steps=1, **ATTACK))
    keys = image_keys(torch.arange(40), 0)
    assert torch.equal(attack(linear(W), X, Y, keys=keys), attack(linear(W), X, Y, keys=keys))
    assert not torch.equal(attack(linear(W), X, Y, keys=keys), attack(linear(W), X, Y, keys=keys + 1))


def test_the_ball_is_that_of_the_attack():
    attack = Transfer(surrogate=linear(W), attack=MIFGSM(eps=0.3, norm=L2()))
    assert (attack.eps, type(attack.norm)) == (0.3, L2)
    assert (attack(linear(W), X, Y) - X).norm(dim=1).max() <= 0.3


def test_images_do_not_stop_at_the_first_error_of_the_surrogate():
    attack = MIFGSM(**ATTACK)
    found = Transfer(surrogate=linear(W), attack=attack).run(
        masked, X, Y, image_keys(torch.arange(40)), early_stop=True
    )
    assert torch.equal(found, attack.craft(linear(W), X, Y, eval_mode=True))
    assert not torch.equal(found, attack(linear(W), X, Y))


def test_settings_name_the_surrogate_and_its_attack():
    found = json.loads(json.dumps(Transfer(surrogate=nn.Linear(5, 2), attack=MIFGSM(**ATTACK)).settings()))
    assert (found["attack"], found["surrogate"], found["eps"]) == ("Transfer", "Linear", 0.15)
    assert found["attack_on_surrogate"]["attack"] == "MIFGSM"
