"""FAB, DeepFool and CW: the distance to the nearest error, and the verdict at eps."""

import functools
import itertools

import pytest
import torch
from torch import nn

from kafnets.attacks import L1, L2, Linf
from kafnets.attacks.cw import CW
from kafnets.attacks.deepfool import DeepFool
from kafnets.attacks.fab import FAB
from kafnets.attacks.minimum_norm import MinimumNorm, Nearest
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

LINF = {
    "fab_t": functools.partial(FAB, steps=40),
    "fab": functools.partial(FAB, steps=40, targeted=False),
    "deepfool": DeepFool,
}
L2S = {
    **{name: functools.partial(attack, norm=L2()) for name, attack in LINF.items()},
    "cw": functools.partial(CW, steps=100, search_steps=6, first_constant=0.1),
}
L1S = {
    "fab_t": functools.partial(FAB, steps=40, norm=L1()),
    "fab": functools.partial(FAB, steps=40, targeted=False, norm=L1()),
}
CASES = [*(pytest.param(a, Linf(), id=f"{n}-linf") for n, a in LINF.items())]
CASES += [*(pytest.param(a, L2(), id=f"{n}-l2") for n, a in L2S.items())]
CASES += [*(pytest.param(a, L1(), id=f"{n}-l1") for n, a in L1S.items())]
every_attack = pytest.mark.parametrize(("attack", "norm"), CASES)


def classes_of(attack):
    """Two for CW: with more, it may end at a boundary that is not the nearest."""
    return 2 if attack is L2S["cw"] else 4


def linear(classes, size=12):
    """A linear network and images well inside the box."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(size, classes, generator=rng)
    x = 0.3 + 0.4 * torch.rand(40, size, generator=rng)

    def net(x):
        return (x - 0.5) @ weight

    return net, weight, x, net(x).argmax(1)


def distances(weight, x, y, norm):
    """min over classes of |gap| / ||w||_*."""
    dual = {Linf: 1, L2: 2, L1: torch.inf}[type(norm)]
    slopes = weight.T[None] - weight.T[y][:, None]
    size = slopes.norm(p=dual, dim=2).clamp_min(1e-12)
    found = (slopes * (x - 0.5)[:, None]).sum(2).abs() / size
    return found.scatter(1, y[:, None], torch.inf).amin(1)


@every_attack
def test_the_minimum_of_a_linear_network_is_its_distance_to_the_boundary(attack, norm):
    net, weight, x, y = linear(classes_of(attack))
    found = attack().nearest(net, x, y)
    expected = distances(weight, x, y, norm)
    assert not is_correct(net(found.images), y).any()
    torch.testing.assert_close(norm.size(found.images - x), found.sizes)
    assert bool((found.sizes >= expected * (1 - 1e-4)).all())
    # DeepFool adds 1e-4 and 2 %, FAB 5 % of its last step, and CW takes few steps here
    assert bool((found.sizes <= expected * 1.03 + 5e-4).all())


@every_attack
@pytest.mark.parametrize("use", [MinimumNorm.__call__, MinimumNorm.craft], ids=["evaluate", "craft"])
def test_at_eps_exactly_the_images_nearer_than_eps_are_fooled(attack, norm, use):
    net, weight, x, y = linear(classes_of(attack))
    distance = distances(weight, x, y, norm)
    for eps in (0.02, 0.05, 0.15):
        x_adv = use(attack(eps=eps), net, x, y)
        assert norm.size(x_adv.double() - x.double()).max() <= eps
        robust = is_correct(net(x_adv), y)
        certain = (distance - eps).abs() > 0.03 * eps + 5e-4
        assert torch.equal(robust[certain], (distance > eps)[certain])


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3)).eval()


def curved():
    net, rng = small_net(), torch.Generator().manual_seed(3)
    x = torch.rand(30, 8, generator=rng)
    with torch.no_grad():
        return net, x, net(x).argmax(1), image_keys(torch.arange(30), 1)


@every_attack
def test_a_larger_eps_loses_no_error(attack, norm):
    net, x, y, keys = curved()
    robust = [is_correct(net(attack(eps=eps)(net, x, y, keys=keys)), y) for eps in (0.0, 0.1, 0.3, 1.0)]
    for smaller, larger in itertools.pairwise(robust):
        assert not bool((larger & ~smaller).any())
    assert robust[0].all()
    assert not robust[-1].all()


@every_attack
def test_stopping_early_does_not_change_the_verdict(attack, norm):
    net, x, y, keys = curved()
    for eps in (0.05, 0.2):
        stopped, complete = (
            is_correct(net(use(net, x, y, keys=keys)), y) for use in (attack(eps=eps), attack(eps=eps).craft)
        )
        assert torch.equal(stopped, complete)
        nearest = attack(eps=eps).nearest(net, x, y, keys=keys)
        assert not complete[nearest.sizes <= eps * (1 - 1e-5)].any()


@every_attack
def test_errors_are_misclassified_and_missing_ones_have_infinite_size(attack, norm):
    net, x, y, keys = curved()
    found = attack().nearest(net, x, y, keys=keys)
    known = found.sizes.isfinite()
    assert not is_correct(net(found.images), y)[known].any()
    assert torch.equal(found.images[~known], x[~known])
    assert known.float().mean() > 0.5


@every_attack
def test_misclassified_images_have_distance_0_and_are_not_moved(attack, norm):
    net, x, y, keys = curved()
    wrong = (y + 1) % 3
    found = attack().nearest(net, x, wrong, keys=keys)
    assert not found.sizes.any()
    assert torch.equal(found.images, x)
    assert torch.equal(attack().craft(net, x, wrong, keys=keys), x)


@every_attack
def test_without_errors_none_is_found(attack, norm):
    def constant(x):
        return torch.stack([0 * x.sum(1) + 1, 0 * x.sum(1)], 1)

    x, y = torch.rand(3, 4), torch.zeros(3, dtype=torch.long)
    with pytest.warns(UserWarning, match="gradient is exactly zero"):
        assert attack().nearest(constant, x, y).sizes.isinf().all()
    with pytest.warns(UserWarning, match="gradient is exactly zero"):
        assert torch.equal(attack(eps=0.5)(constant, x, y), x)


@every_attack
def test_a_search_changes_neither_the_network_nor_the_images(attack, norm):
    net, x, y, keys = curved()
    net.train().requires_grad_(True)
    before, given = {k: v.clone() for k, v in net.state_dict().items()}, x.clone()
    attack().nearest(net, x, y, keys=keys)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(x, given)


@every_attack
def test_an_empty_batch(attack, norm):
    net, x, y, keys = curved()
    found = attack().nearest(net, x[:0], y[:0], keys=keys[:0])
    assert (found.images.shape, found.sizes.shape) == ((0, 8), (0,))


@every_attack
def test_invalid_images_and_keys_are_refused(attack, norm):
    net, x, y, _ = curved()
    with pytest.raises(ValueError, match=r"images must be finite and in \[0, 1\]"):
        attack().nearest(net, 2 * x, y)
    with pytest.raises(ValueError, match=r"keys must be one per image"):
        attack().nearest(net, x, y, keys=torch.tensor([1]))


class Known(MinimumNorm):
    """Finds an error 0.19 away in every pixel."""

    def search(self, net, x, y, keys, logits, enough):
        return Nearest(x + 0.19, torch.full((len(x),), 0.19))


@pytest.mark.parametrize(("eps", "returned", "fooled"), [(0.05, 0.0, False), (0.15, 0.15, True), (0.3, 0.19, True)])
def test_a_projection_that_fools_counts(eps, returned, fooled):
    def shell(x):
        """Wrong from 0.1 to 0.2 around the image."""
        distance = (x - 0.5).abs().amax(1)
        return torch.stack([torch.where((distance > 0.1) & (distance < 0.2), -1.0, 1.0), 0 * distance], 1)

    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    for use in (Known(eps=eps), Known(eps=eps).craft):
        x_adv = use(shell, x, y)
        assert is_correct(shell(x_adv), y).item() is not fooled
    torch.testing.assert_close(Known(eps=eps)(shell, x, y), x + returned)
    torch.testing.assert_close(Known(eps=eps).nearest(shell, x, y).sizes, torch.tensor([0.19]))
