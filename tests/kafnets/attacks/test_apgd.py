"""APGD against checkpoints by hand, the algorithm for one image in plain lists, and optima that can be proved."""

import itertools

import pytest
import torch

from kafnets.attacks import APGD, APGDT, L1, L2, PGD, Linf
from kafnets.attacks.apgd_ascent import MomentumClimb, checkpoints
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy, dlr, margin

from .apgd_cases import linear, watched_ascent, wavy_net


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # p = 0, .22, .41, .57, .70, .80, .87, .93, .99: differences .19, .16, .13, .10, .07, then .06
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (1000, [220, 410, 570, 700, 800, 870, 930, 990]),
        (50, [11, 21, 29, 35, 40, 44, 47, 50]),
        (20, [5, 9, 12, 14, 16, 18, 19, 20]),
        (1, [1]),
    ],
)
def test_checkpoints_by_hand(steps, expected):
    assert checkpoints(steps) == expected


def one_by_one(net, loss, norm, eps, steps, x, y, start):
    """Algorithm 1 for one image, with lists of every loss and iterate; returns the best image and the etas."""

    def at(point):
        point = point.clone().requires_grad_()
        value = loss(net(point), y)
        return value.item(), torch.autograd.grad(value.sum(), point)[0]

    points, etas = [start], [2 * eps]
    values, grads = map(list, zip(at(start), strict=True))
    best = 0  # the number of the best iterate
    places, reset = {0: (start, grads[0])}, (start, grads[0])
    known, halved_at_last, best_at_last, last = checkpoints(steps), True, values[0], 0
    for k in range(steps):
        point, grad = reset
        z = norm.project(point + etas[-1] * norm.direction(grad), x, eps)
        a = 1.0 if k == 0 else 0.75
        before = points[-2] if k else point
        moved = norm.project(point + a * (z - point) + (1 - a) * (point - before), x, eps)
        points[-1] = point  # the point that the step started from counts as the iterate
        value, grad = at(moved)
        points.append(moved)
        values.append(value)
        places[k + 1], reset = (moved, grad), (moved, grad)
        best = k + 1 if value > values[best] else best
        etas.append(etas[-1])
        if k + 1 in known:
            rises = sum(values[i + 1] > values[i] for i in range(last, k + 1))
            stalled = not halved_at_last and values[best] == best_at_last
            halved_at_last = rises <= 0.75 * (k + 1 - last) or stalled
            if halved_at_last:
                etas[-1] /= 2
                reset = places[best]
            best_at_last, last = values[best], k + 1
    return places[best][0], etas


@pytest.mark.parametrize("norm", [Linf(), L2()])
@pytest.mark.parametrize("loss", [cross_entropy, dlr])
def test_every_image_follows_the_algorithm(norm, loss):
    net, n, steps, eps = wavy_net(), 6, 25, 0.3  # few steps: after convergence, rounding would decide
    x, keys = torch.rand(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(n)
    y = net(x).argmax(1)
    etas = []
    found = watched_ascent(
        net,
        x,
        y,
        keys,
        climb=MomentumClimb,
        before_move=lambda climb: etas.append(climb.step_size.clone()),
        eps=eps,
        steps=steps,
        norm=norm,
        loss=loss,
    )
    starts = norm.random_start(x, eps, keys)
    for i in range(n):
        point, expected = one_by_one(net, loss, norm, eps, steps, x[i : i + 1], y[i : i + 1], starts[i : i + 1])
        torch.testing.assert_close(torch.stack(etas)[:, i], torch.tensor(expected[:-1], dtype=torch.float64))
        torch.testing.assert_close(found[i], point[0])
    assert len(torch.stack(etas).unique()) > 3


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_optimum_of_a_linear_network(norm, loss):
    weight, net = linear()
    x, y = 0.4 + 0.2 * torch.rand(40, 30), torch.arange(40) % 2
    up = weight[:, 1] - weight[:, 0]
    towards = torch.where(y == 0, 1.0, -1.0).unsqueeze(1) * norm.direction(up.unsqueeze(0))
    found = APGD(eps=0.2, steps=40, norm=norm, loss=loss).craft(net, x, y)
    # in L1 two pixels that move together stay together, although the better one alone would be best
    atol = 2e-3 if isinstance(norm, L1) else 2e-4
    torch.testing.assert_close(loss(net(found), y), loss(net(x + 0.2 * towards), y), rtol=0, atol=atol)


@pytest.mark.parametrize(("norm", "dual"), [(Linf(), 1), (L2(), 2), (L1(), float("inf"))])
@pytest.mark.parametrize("targeted", [False, True])
def test_exactly_the_images_within_reach_of_an_error_are_fooled(norm, dual, targeted):
    weight, net = linear(classes=6, size=40)
    x = 0.4 + 0.2 * torch.rand(200, 40)
    y = net(x).argmax(1)
    for eps in (0.002, 0.01, 0.03):
        # towards each class: (z_y - z_j) / |w_y - w_j| in the dual norm, away from the box
        z, w = net(x), weight.T
        size = (w[y].unsqueeze(1) - w.unsqueeze(0)).norm(p=dual, dim=2).scatter(1, y.unsqueeze(1), 1)
        reach = ((z.gather(1, y.unsqueeze(1)) - z) / size).scatter(1, y.unsqueeze(1), 9).amin(1)
        attack = APGDT(eps=eps, steps=20, norm=norm) if targeted else APGD(eps=eps, steps=60, norm=norm, loss=margin)
        robust = is_correct(net(attack(net, x, y)), y)
        assert not bool((~robust & (reach > 1.001 * eps)).any())
        missed = robust & (reach < (0.97 if isinstance(norm, L1) else 0.999) * eps)
        # the margin follows the leading wrong class alone; with a target for each class all errors are found, except
        # in L1, where the pixels that moved first sometimes keep the others from moving
        few = 3 if isinstance(norm, L1) else 0
        assert missed.sum() <= few if targeted else missed.sum() <= 4 + few


@pytest.mark.parametrize("build", [APGD, APGDT])
@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_the_gradient_is_followed_uphill_in_one_dimension(build, norm):
    def hill(x):  # class 1 wins between 0.55 and 0.65 alone
        bump = 0.05 - (x[:, 0] - 0.6).abs()
        return torch.stack([0 * bump, bump, bump - 1, bump - 2], 1)

    x, y = torch.tensor([[0.5], [0.45], [0.3], [0.9]]), torch.zeros(4, dtype=torch.long)
    found = build(eps=0.2, norm=norm, steps=50)(hill, x, y, keys=torch.arange(4))
    assert is_correct(hill(found), y).tolist() == [False, False, True, True]  # the last two end at 0.5 and at 0.7
    assert found[2:].flatten().tolist() == pytest.approx([0.5, 0.7], abs=1e-4)


def test_the_scale_of_the_logits_does_not_matter_to_dlr():
    net, x = wavy_net(), torch.rand(30, 8, dtype=torch.float64)
    y, keys = net(x).argmax(1), torch.arange(30)
    attack = APGD(eps=0.05, steps=15, loss=dlr)
    whole = attack(net, x, y, keys=keys)
    for scale in (1e-6, 1e4):
        torch.testing.assert_close(attack(lambda x, scale=scale: scale * net(x), x, y, keys=keys), whole)


def test_huge_logits_hide_the_gradient_of_the_cross_entropy_only():
    net, x = wavy_net().float(), torch.rand(60, 8)
    y, keys = net(x).argmax(1), torch.arange(60)
    robust = {
        name: is_correct(net(attack(lambda x: 1e6 * net(x), x, y, keys=keys)), y).sum().item()
        for name, attack in {
            "ce": APGD(eps=0.04, steps=30),
            "dlr": APGD(eps=0.04, steps=30, loss=dlr),
            "targeted": APGDT(eps=0.04, steps=30),
        }.items()
    }
    assert robust["dlr"] < robust["ce"]
    assert robust["targeted"] <= robust["dlr"]


@pytest.mark.parametrize("build", [APGD, APGDT])
def test_more_restarts_lose_no_error(build):
    net = wavy_net()
    x, keys = torch.rand(120, 8, dtype=torch.float64), image_keys(torch.arange(120))
    y = net(x).argmax(1)
    robust = [is_correct(net(build(eps=0.02, steps=4, restarts=r)(net, x, y, keys=keys)), y) for r in (1, 2, 5)]
    for fewer, more in itertools.pairwise(robust):
        assert not bool((more & ~fewer).any())


def test_no_weaker_than_pgd_with_the_same_number_of_steps():
    net = wavy_net()
    x, keys = torch.rand(300, 8, dtype=torch.float64), image_keys(torch.arange(300))
    y = net(x).argmax(1)
    found = {
        name: is_correct(net(attack(net, x, y, keys=keys)), y).sum().item()
        for name, attack in {
            "pgd": PGD(eps=0.05, step_size=0.0125, steps=60),
            "apgd": APGD(eps=0.05, steps=60),
            "targeted": APGDT(eps=0.05, steps=60),
        }.items()
    }
    assert found["apgd"] <= found["pgd"] + 3  # of 300: neither finds all errors of the other
    assert found["targeted"] <= found["apgd"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: APGD(steps=0), "steps must be >= 1, got 0"),
        (lambda: APGDT(steps=0), "steps must be >= 1, got 0"),
        (lambda: APGDT(targets=0), "targets must be >= 1, got 0"),
        (lambda: APGD(eps=8), "for 8 grey levels write 8/255"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
