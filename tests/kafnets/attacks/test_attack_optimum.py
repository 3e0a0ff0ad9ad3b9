"""Attacks find images that are provably the worst, against the true label, over all restarts and iterates."""

import itertools

import pytest
import torch
from torch import nn

from kafnets.attacks import FGSM, L1, L2, PGD, Attack, Linf
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy

SEARCHES = list(itertools.product([True, False], [True, False]))


def linear(seed=0, size=12, scale=1.0):
    """Two classes; the loss of class 0 rises along ``-w``, that of class 1 along ``w``."""
    w = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return w, lambda x: scale * torch.stack([x @ w, -(x @ w)], 1)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=0.2, alpha=1.0, random_start=False),
        FGSM(eps=0.2, alpha=2.0),
        PGD(eps=0.2, step_size=0.05, steps=8),
    ],
    ids=str,
)
def test_linf_optimum_of_a_linear_network(attack):
    w, net = linear()
    x, y = torch.rand(50, 12), torch.arange(50) % 2
    towards = torch.where(y == 0, -1.0, 1.0).unsqueeze(1) * w.sign()
    torch.testing.assert_close(attack.craft(net, x, y), (x + 0.2 * towards).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=0.2, alpha=1.0, random_start=False, norm=L2()),
        PGD(eps=0.2, step_size=0.1, steps=40, norm=L2()),
    ],
    ids=str,
)
def test_l2_optimum_of_a_linear_network_away_from_the_box(attack):
    w, net = linear()
    x, y = 0.3 + 0.4 * torch.rand(50, 12), torch.arange(50) % 2
    towards = torch.where(y == 0, -1.0, 1.0).unsqueeze(1) * w / w.norm()
    torch.testing.assert_close(attack.craft(net, x, y), x + 0.2 * towards, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=0.2, alpha=1.0, random_start=False, norm=L1()),
        PGD(eps=0.2, step_size=0.1, steps=40, norm=L1()),
    ],
    ids=str,
)
def test_l1_optimum_of_a_linear_network_away_from_the_box(attack):
    w, net = linear()
    x, y = 0.3 + 0.4 * torch.rand(50, 12), torch.arange(50) % 2
    steepest = torch.where(w.abs() == w.abs().max(), w.sign(), 0)
    towards = torch.where(y == 0, -1.0, 1.0).unsqueeze(1) * steepest
    torch.testing.assert_close(attack.craft(net, x, y), x + 0.2 * towards, rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("norm", "size"), [(Linf(), lambda w: w.abs().sum()), (L2(), lambda w: w.norm()), (L1(), lambda w: w.abs().max())]
)
def test_early_stop_finds_exactly_the_images_that_can_be_fooled(norm, size):
    w = linear(size=400)[0] / 50
    x, y = 0.35 + 0.3 * torch.rand(300, 400), torch.zeros(300, dtype=torch.long)
    margin = (x - 0.5) @ w

    def net(x):
        return torch.stack([(x - 0.5) @ w, torch.zeros(len(x))], 1)

    for eps in (0.001, 0.005, 0.02):
        attack = PGD(eps=eps, step_size=eps / 4, steps=40, norm=norm)
        robust = is_correct(net(attack(net, x, y)), y)
        certain = (margin - eps * size(w)).abs() > 1e-4 * size(w) * eps + 1e-6
        assert torch.equal(robust[certain], (margin > eps * size(w))[certain])


@pytest.mark.parametrize("use", [PGD.__call__, PGD.craft, lambda attack, *args: PGD(eps=0.5, restarts=3)(*args)])
def test_misclassified_images_are_not_moved_towards_the_true_class(use):
    _, net = linear()
    x = torch.rand(200, 12)
    y = 1 - net(x).argmax(1)  # every image is wrong, and most could be made right
    x_adv = use(PGD(eps=0.5, step_size=0.2, steps=5), net, x, y)
    assert not is_correct(net(x_adv), y).any()
    assert bool((cross_entropy(net(x_adv), y) >= cross_entropy(net(x), y) - 1e-6).all())


def test_misclassified_images_are_not_moved_in_evaluation():
    _, net = linear()
    x = torch.rand(20, 12)
    assert torch.equal(PGD(eps=0.5)(net, x, 1 - net(x).argmax(1)), x)


def narrow_gap(x):
    """Wrong only for pixels in (0.55, 0.6), with a gradient that leads through the gap and beyond."""
    inside = ((x - 0.55) * (0.6 - x)).squeeze(1)
    return torch.stack([torch.where(inside > 0, -1.0, 1.0) - 0.1 * x.squeeze(1), 0 * inside], 1)


def test_an_error_at_an_intermediate_iterate_counts():
    x, y = torch.tensor([[0.5], [0.1]]), torch.zeros(2, dtype=torch.long)  # the second never reaches the gap
    attack = {"eps": 0.3, "step_size": 0.08, "steps": 3, "random_start": False}
    found = PGD(**attack)(narrow_gap, x, y)
    assert is_correct(narrow_gap(found), y).tolist() == [False, True]
    torch.testing.assert_close(found, x + torch.tensor([[0.08], [0.24]]))
    last = PGD(**attack).craft(narrow_gap, x, y)
    assert is_correct(narrow_gap(last), y).all()


class Scripted(Attack):
    """Returns the given image at each restart."""

    def __init__(self, *values):
        super().__init__(eps=1.0, restarts=len(values))
        self.values, self.calls = values, []

    def run(self, net, x, y, keys, *, early_stop):
        self.calls.append(len(x))
        return torch.full_like(x, self.values[len(self.calls) - 1])


def threshold(x):
    """Class 0 is right up to 0.5; the higher the pixel, the larger the loss."""
    return torch.cat([0.5 - x, torch.zeros_like(x)], 1)


@pytest.mark.parametrize("values", list(itertools.permutations([0.2, 0.4, 0.9])))
def test_the_worst_restart_is_kept_and_not_the_last(values):
    x, y = torch.full((2, 1), 0.1), torch.zeros(2, dtype=torch.long)
    assert torch.equal(Scripted(*values)(threshold, x, y), torch.full((2, 1), 0.9))


def test_of_robust_restarts_the_largest_loss_is_kept():
    x, y = torch.full((1, 1), 0.1), torch.tensor([0])
    assert Scripted(0.3, 0.4, 0.2)(threshold, x, y).item() == pytest.approx(0.4)
    assert Scripted(0.05, 0.0)(threshold, x, y).item() == pytest.approx(0.1)  # the image itself


def test_an_error_beats_a_larger_loss():
    def net(x):  # wrong between 0.6 and 0.7, where the loss is smaller than above 0.7
        return torch.where((x > 0.6) & (x < 0.7), torch.tensor([[-0.1, 0.0]]), torch.tensor([[0.1, 0.0]]))

    def loss(logits, y):
        return logits[:, 0]

    attack = Scripted(0.65)
    attack.loss = loss
    assert attack(net, torch.full((1, 1), 0.9), torch.tensor([0])).item() == pytest.approx(0.65)


def test_only_images_that_are_still_correct_take_another_restart():
    x, y = torch.tensor([[0.1], [0.9], [0.2]]), torch.zeros(3, dtype=torch.long)
    attack = Scripted(0.3, 0.8, 0.9)
    attack(threshold, x, y)
    assert attack.calls == [2, 2]


class Spiky(nn.Module):
    """Flat almost everywhere: whether an image is fooled depends on where its search starts."""

    def forward(self, x):
        s = (9 * x.flatten(1)).sin().sum(1)
        return torch.stack([3 - s.abs(), torch.zeros_like(s)], 1)


def test_the_worst_case_is_taken_per_image():
    x, y = torch.rand(300, 12), torch.zeros(300, dtype=torch.long)
    keys, net = image_keys(torch.arange(300)), Spiky()
    settings = {"eps": 0.05, "step_size": 0.01, "steps": 1}
    robust = [is_correct(net(PGD(**settings, restarts=restarts)(net, x, y, keys=keys)), y) for restarts in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(robust):
        assert not bool((more & ~fewer).any())  # per image, not only in sum
    assert robust[-1].sum() < robust[0].sum()


def test_several_restarts_find_the_union_of_single_ones():
    x, y = torch.rand(200, 12), torch.zeros(200, dtype=torch.long)
    keys, net, attack = image_keys(torch.arange(200)), Spiky(), PGD(eps=0.05, step_size=0.01, steps=1)
    together = is_correct(net(PGD(eps=0.05, step_size=0.01, steps=1, restarts=4)(net, x, y, keys=keys)), y)
    alone = is_correct(net(x), y)
    for restart in range(4):
        alone &= is_correct(net(attack.run(net, x, y, image_keys(keys, restart), early_stop=True)), y)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_a_larger_eps_loses_no_error_on_a_linear_network(norm):
    _, net = linear(size=30, scale=5)
    x, keys = torch.rand(300, 30), image_keys(torch.arange(300))
    y = net(x).argmax(1)
    robust = [
        is_correct(net(PGD(eps=eps, step_size=eps / 2, steps=10, norm=norm)(net, x, y, keys=keys)), y)
        for eps in (0.01, 0.03, 0.1, 0.3)
    ]
    for smaller, larger in itertools.pairwise(robust):
        assert not bool((larger & ~smaller).any())
    assert robust[-1].sum() < robust[0].sum()


def test_the_batch_size_does_not_scale_the_gradient():
    _, net = linear(scale=1e-3)
    x, y = torch.rand(64, 12), torch.zeros(64, dtype=torch.long)
    whole, one = (FGSM().estimate(net, cross_entropy, x[:n], (y[:n],)).grad for n in (64, 1))
    torch.testing.assert_close(whole[:1], one)


def test_the_given_loss_is_maximised():
    def towards_black(logits, y):
        return -logits[:, 0]

    x = torch.full((2, 3), 0.5)
    attack = FGSM(eps=0.1, alpha=1.0, random_start=False, loss=towards_black)
    torch.testing.assert_close(
        attack.craft(lambda x: x, x, torch.zeros(2, dtype=torch.long))[:, 0], torch.tensor([0.4, 0.4])
    )


class Alone(PGD):
    """Makes one attempt at a time."""

    def _attempts_at_once(self, batch_size, images):
        return 1


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_restarts_that_share_a_batch_find_what_they_find_one_by_one(norm):
    x, y = torch.rand(300, 12, dtype=torch.float64), torch.zeros(300, dtype=torch.long)
    keys, sizes = image_keys(torch.arange(300)), []

    class Watched(Spiky):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    settings = {"eps": 0.05, "step_size": 0.01, "steps": 2, "restarts": 9, "norm": norm}
    alone = Alone(**settings)(Watched(), x, y, keys=keys)
    steps = len(sizes)
    together = PGD(**settings)(Watched(), x, y, keys=keys)
    torch.testing.assert_close(together, alone)
    assert max(sizes) <= 300
    assert len(sizes) - steps < 0.8 * steps
