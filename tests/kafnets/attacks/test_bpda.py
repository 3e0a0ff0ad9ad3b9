"""BPDA: unchanged outputs, the gradients of other functions, and no traces in the network."""

import json

import pytest
import torch
from torch import nn

from kafnets.attacks import EOT, L2, PGD
from kafnets.attacks.bpda import BPDA, replaced_backward
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct


class Quantise(nn.Module):
    """Eight levels: flat almost everywhere."""

    def forward(self, x):
        return (x * 7).round() / 7


def identity(x):
    return x


def quantisers(net):
    return {module: identity for module in net.modules() if isinstance(module, Quantise)}


def masked_net():
    torch.manual_seed(0)
    return nn.Sequential(Quantise(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3)).eval()


def batch(net, n=60):
    x = torch.rand(n, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(x).argmax(1), image_keys(torch.arange(n), 0)


def hooks(net):
    return [[len(d) for d in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)] for m in net.modules()]


def test_outputs_stay_and_gradients_change():
    net = masked_net()
    x, _, _ = batch(net)
    x.requires_grad_(True)
    expected = net(x)
    with replaced_backward({net[0]: lambda x: x**2}):
        found = net(x)
        assert torch.equal(found, expected)
        (grad,) = torch.autograd.grad(found.sum(), x)
    z = net[0](x).detach().requires_grad_(True)
    (behind,) = torch.autograd.grad(net[1:](z).sum(), z)
    torch.testing.assert_close(grad, behind * 2 * x.detach())
    (after,) = torch.autograd.grad(net(x).sum(), x)
    assert not after.any()


def test_two_modules_and_a_substitute_built_on_the_module():
    net = nn.Sequential(nn.Sigmoid(), nn.Sigmoid()).double()
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    with replaced_backward({net[0]: lambda x: 5 * x, net[1]: lambda x: net[1].forward(x) + 2 * x}):
        y = net(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
    s = x.detach().sigmoid()
    torch.testing.assert_close(y, s.sigmoid())
    torch.testing.assert_close(grad, 5 * (s.sigmoid() * (1 - s.sigmoid()) + 2))


def test_bpda_finds_errors_that_pgd_cannot():
    net = masked_net()
    x, y, keys = batch(net)
    pgd = PGD(eps=0.15, step_size=0.03, steps=20)
    without = is_correct(net(pgd(net, x, y, keys=keys)), y)
    attack = BPDA(attack=pgd, substitutes=quantisers)
    x_adv = attack(net, x, y, keys=keys)
    correct = is_correct(net(x_adv), y)
    assert (x_adv - x).abs().max() <= 0.15
    assert correct.sum() < without.sum() / 2
    more = BPDA(attack=PGD(eps=0.15, step_size=0.03, steps=20, restarts=3), substitutes=quantisers)
    assert not bool((is_correct(net(more(net, x, y, keys=keys)), y) & ~correct).any())


@pytest.mark.parametrize("outer", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_same_result_in_every_autograd_mode_and_the_network_unchanged(outer):
    net = masked_net().train()
    x, y, keys = batch(net)
    kept = []
    handle = net[0].register_forward_hook(lambda *_: kept.append(1))
    before, had = {k: v.clone() for k, v in net.state_dict().items()}, hooks(net)
    attack = BPDA(attack=PGD(eps=0.15, step_size=0.03, steps=3), substitutes=quantisers)
    expected = attack(net, x, y, keys=keys)
    with outer():
        assert torch.equal(attack(net, x.clone(), y, keys=keys), expected)
    assert net.training
    assert hooks(net) == had
    assert kept
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    handle.remove()


def test_hooks_are_removed_after_an_exception():
    net = masked_net()
    had = hooks(net)
    with pytest.raises(RuntimeError, match="stop"), replaced_backward({net[0]: identity, net[2]: identity}):
        assert hooks(net) != had
        raise RuntimeError("stop")
    assert hooks(net) == had


def test_compiled_networks_are_differentiated_too():
    net = masked_net()
    x, _, _ = batch(net)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        compiled(x)
    x.requires_grad_(True)
    with replaced_backward({net[0]: identity}):
        assert torch.autograd.grad(compiled(x).sum(), x)[0].abs().sum() > 0


def test_a_substitute_of_another_shape():
    net = masked_net()
    x = torch.rand(2, 20, requires_grad=True)
    with (
        pytest.raises(ValueError, match=r"the substitute of Quantise must return its shape \(2, 20\), got \(2, 10\)"),
        replaced_backward({net[0]: lambda x: x[:, :10]}),
    ):
        net(x)


def test_networks_without_such_modules_are_refused():
    net = nn.Linear(20, 3)
    x, y, _ = batch(net)
    attack = BPDA(attack=PGD(), substitutes=quantisers)
    with pytest.raises(ValueError, match=r"quantisers.* found no module to replace in Linear"):
        attack(net, x, y)
    with pytest.raises(TypeError, match=r"BPDA replaces modules, so it takes a torch.nn.Module, got function"):
        attack(identity, x, y)


def test_settings_are_those_of_the_attack():
    attack = BPDA(attack=PGD(eps=0.5, norm=L2(), restarts=3), substitutes=quantisers)
    found = json.loads(json.dumps(attack.settings()))
    assert (found["attack"], found["eps"], found["norm"]) == ("BPDA", 0.5, "L2")
    inner = found["attack_with_substitutes"]
    assert (inner["steps"], inner["restarts"]) == (50, 3)
    assert "quantisers" in found["substitutes"]
    assert str(attack) == f"BPDA L2 eps 0.5 (attack={attack.attack}, substitutes=quantisers)"


def test_it_judges_with_the_estimator_of_the_attack_and_its_settings_hold_no_address():
    attack = BPDA(attack=PGD(estimator=EOT(3)), substitutes=lambda net: {})
    assert attack.estimator is attack.attack.estimator
    assert "0x" not in json.dumps(attack.settings())
