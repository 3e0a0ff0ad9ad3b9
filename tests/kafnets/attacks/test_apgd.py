"""APGD against checkpoints by hand, an image at a time in plain lists, and optima that can be proved."""

import itertools
import math

import pytest
import torch
from torch import nn

from kafnets.attacks import APGD, APGDT, L1, L2, PGD, Linf
from kafnets.attacks.apgd_ascent import MomentumClimb, SparseClimb, checkpoints, way_up
from kafnets.keyed_random import image_keys, normal
from kafnets.logits import is_correct, likely_wrong_classes
from kafnets.losses import cross_entropy, dlr, margin, targeted_dlr


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


def wavy_net():
    """A smooth network whose loss rises and falls along the way, so that steps are halved for either reason."""
    torch.manual_seed(0)
    first, second = AlikeLinear(8, 16), AlikeLinear(16, 5)
    return nn.Sequential(first, Waves(), second).double()


class AlikeLinear(nn.Linear):
    """Rounds an image alike in every batch, as matrix products do not: a path of many steps would part over that."""

    def forward(self, x):
        return (x.unsqueeze(1) * self.weight).sum(2) + self.bias


class Waves(nn.Module):
    def forward(self, x):
        return (6 * x).sin()


def one_by_one(net, loss, norm, eps, steps, x, y, start):
    """Algorithm 1 for one image, as it is written: every loss and iterate in a list; the best image and the etas."""

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
        points[-1] = point  # the point that was gone on from counts as the iterate
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
def test_every_image_goes_the_way_of_the_algorithm(norm, loss):
    net, n, steps, eps = wavy_net(), 6, 25, 0.3  # where all have converged, rounding would decide
    x, keys = torch.rand(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(n)
    y = net(x).argmax(1)
    etas = []

    class Watched(MomentumClimb):
        def move(self):
            etas.append(self.step_size.clone())
            super().move()

    attack = APGD(eps=eps, steps=steps, norm=norm, loss=loss)
    attack._climb = Watched
    # without the preference for errors, what is returned is the point of the largest loss
    found = attack.climb(
        lambda x: pad_with_a_winner(net(x)),
        ignoring_the_winner(loss),
        x,
        (torch.full((n,), 5), y),
        keys,
        early_stop=False,
    )
    starts = norm.random_start(x, eps, keys)
    for i in range(n):
        point, expected = one_by_one(net, loss, norm, eps, steps, x[i : i + 1], y[i : i + 1], starts[i : i + 1])
        torch.testing.assert_close(torch.stack(etas)[:, i], torch.tensor(expected[:-1], dtype=torch.float64))
        torch.testing.assert_close(found[i], point[0])
    assert len(torch.stack(etas).unique()) > 3


def pad_with_a_winner(logits):
    return torch.cat([logits, torch.full((len(logits), 1), 1e6, dtype=logits.dtype)], 1)


def ignoring_the_winner(loss):
    return lambda logits, winner, y: loss(logits[:, :-1], y)


def sparse_by_hand(net, loss, eps, steps, x, y, start):
    """The L1 algorithm for one image: the best image of the last phase, and the steps and numbers of pixels moved."""

    def at(point):
        point = point.clone().requires_grad_()
        value = loss(net(point), y)
        return value.item(), torch.autograd.grad(value.sum(), point)[0]

    ball, record, point = L1(), [], start
    wide = math.floor(0.3 * steps + 1e-9)
    for radius, phase in ((3 * eps, wide), (2 * eps, wide), (eps, steps - 2 * wide)):
        point = ball.project(point, x, radius)
        best_value, grad = at(point)
        best = (point, grad)
        before, alpha, every = (point != x).sum().item(), radius, max(int(0.04 * phase), 1)
        for k in range(1, phase + 1):
            few = max(math.ceil(before / 1.5 - 1e-9), 1)
            largest = grad.flatten().abs().topk(few).indices
            direction = torch.zeros_like(grad).flatten()
            direction[largest] = grad.flatten()[largest].sign() / few
            record.append((alpha, few))
            point = ball.project(point + alpha * direction.reshape(x.shape), x, radius)
            value, grad = at(point)
            if value > best_value:
                best_value, best = value, (point, grad)
            if k % every == 0:
                now = (best[0] != x).sum().item()
                if now / before < 0.95:
                    alpha, (point, grad) = radius, best
                else:
                    alpha = max(alpha / 1.5, radius / 10)
                before = now
        point = best[0]
    return point, record


@pytest.mark.parametrize("loss", [cross_entropy, dlr])
@pytest.mark.parametrize("steps", [10, 60, 190])
def test_in_l1_every_image_goes_the_way_of_its_own_algorithm(loss, steps):
    net, n, eps = wavy_net(), 12, 1.0
    x, keys = torch.rand(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(n)
    y, record = net(x).argmax(1), []

    class Watched(SparseClimb):
        def move(self):
            record.append((self.step_size.clone(), (2 * self.changed / 3).ceil().clamp_min(1)))
            super().move()

    attack = APGD(eps=eps, steps=steps, norm=L1(), loss=loss)
    attack._climb = Watched
    found = attack.climb(
        lambda x: pad_with_a_winner(net(x)),
        ignoring_the_winner(loss),
        x,
        (torch.full((n,), 5), y),
        keys,
        early_stop=False,
    )
    starts = L1().project(x + normal(keys, (8,)).double(), x, 3 * eps)
    for i in range(n):
        point, expected = sparse_by_hand(net, loss, eps, steps, x[i : i + 1], y[i : i + 1], starts[i : i + 1])
        steps_taken = torch.tensor([[alpha[i].item(), few[i].item()] for alpha, few in record])
        torch.testing.assert_close(steps_taken, torch.tensor(expected))
        torch.testing.assert_close(found[i], point[0])
    assert len({few.item() for _, moved in record for few in moved}) > 2


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 10, 33, 100])
def test_the_phases_of_l1_share_out_all_steps_and_end_within_eps(steps):
    phases = SparseClimb.phases(2.0, steps)
    assert sum(phase.steps for phase in phases) == steps
    assert [phase.eps for phase in phases] == [6.0, 4.0, 2.0][-len(phases) :]
    assert min(phase.steps for phase in phases) >= 1
    assert len(phases) == 1 or phases[-1].steps >= phases[0].steps


def test_subclasses_and_other_norms_have_a_way_up():
    class Mine(L1):
        pass

    assert way_up(Mine()) is SparseClimb
    assert way_up(L2()) is way_up(Linf()) is MomentumClimb


def test_success_within_a_wider_ball_does_not_count():
    def net(x):  # wrong beyond an L1 distance of 0.25 alone
        return torch.stack([0.25 - (x - 0.5).abs().sum(1), 0 * x[:, 0]], 1)

    x, y = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.long)
    attack = APGD(eps=0.2, steps=20, norm=L1())
    for found in (attack(net, x, y), attack.craft(net, x, y)):
        assert is_correct(net(found), y).all()
        assert (found - x).abs().sum(1).max() <= 0.2
    assert not is_correct(net(APGD(eps=0.26, steps=20, norm=L1())(net, x, y)), y).any()


def test_every_estimate_has_a_number_of_its_own():
    numbers = []

    class Watched(APGD):
        def estimate(self, net, loss, x_adv, labels, keys=None, step=0):
            numbers.append(step)
            return super().estimate(net, loss, x_adv, labels, keys, step)

    x, y = torch.rand(2, 6), torch.zeros(2, dtype=torch.long)
    Watched(eps=0.5, steps=10, norm=L1()).craft(lambda x: x, x, y)
    assert numbers == list(range(13))  # three starts and ten steps


def linear(classes=2, size=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, classes, generator=generator) / size**0.5
    return weight, lambda x: (x - 0.5) @ weight


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_optimum_of_a_linear_network(norm, loss):
    weight, net = linear()
    x, y = 0.4 + 0.2 * torch.rand(40, 30), torch.arange(40) % 2
    up = weight[:, 1] - weight[:, 0]
    towards = torch.where(y == 0, 1.0, -1.0).unsqueeze(1) * norm.direction(up.unsqueeze(0))
    found = APGD(eps=0.2, steps=40, norm=norm, loss=loss).craft(net, x, y)
    # in L1 two pixels that move together end there, although the better of them alone would be best
    atol = 2e-3 if isinstance(norm, L1) else 2e-4
    torch.testing.assert_close(loss(net(found), y), loss(net(x + 0.2 * towards), y), rtol=0, atol=atol)


@pytest.mark.parametrize(("norm", "dual"), [(Linf(), 1), (L2(), 2), (L1(), float("inf"))])
@pytest.mark.parametrize("targeted", [False, True])
def test_exactly_the_images_that_can_be_fooled_are(norm, dual, targeted):
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
        # the margin's gradient goes for the leading wrong class alone; a target for each finds them all, but that in
        # L1 those pixels that moved first sometimes keep the others from moving
        few = 3 if isinstance(norm, L1) else 0
        assert missed.sum() <= few if targeted else missed.sum() <= 4 + few


def filled_up(x, w, eps):
    """The image of the ball and the box where ``w . x`` is largest: the largest weights go first, to the box."""
    x, left = x.clone(), eps
    for i in w.abs().argsort(descending=True).tolist():
        move = min(left, (1 - x[i] if w[i] > 0 else x[i]).item())
        x[i] += move * w[i].sign()
        left -= move
    return x


def test_optimum_of_a_linear_network_in_l1_where_the_box_stops_pixels():
    weight = linear()[0].double()
    x, y = torch.rand(40, 30, dtype=torch.float64), torch.zeros(40, dtype=torch.long)
    found = APGD(eps=3.0, steps=100, norm=L1(), loss=margin).craft(lambda x: (x - 0.5) @ weight, x, y)
    best = torch.stack([filled_up(image, weight[:, 1] - weight[:, 0], 3.0) for image in x])
    reached, possible = (margin((images - 0.5) @ weight, y) for images in (found, best))
    start = margin((x - 0.5) @ weight, y)
    assert bool((reached <= possible + 1e-9).all())
    share = (reached - start) / (possible - start)
    assert share.min() > 0.95
    assert share.mean() > 0.99


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


def test_logits_of_any_scale_are_attacked_alike_by_dlr():
    net, x = wavy_net(), torch.rand(30, 8, dtype=torch.float64)
    y, keys = net(x).argmax(1), torch.arange(30)
    attack = APGD(eps=0.05, steps=15, loss=dlr)
    whole = attack(net, x, y, keys=keys)
    for scale in (1e-6, 1e4):
        torch.testing.assert_close(attack(lambda x, scale=scale: scale * net(x), x, y, keys=keys), whole)


def test_huge_logits_hide_the_gradient_of_the_cross_entropy_alone():
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


def test_most_likely_wrong_classes_against_sorting_by_hand():
    logits, y = torch.randn(50, 7), torch.randint(7, (50,))
    found = likely_wrong_classes(logits, y, 9).tolist()
    for row, label, classes in zip(logits.tolist(), y.tolist(), found, strict=True):
        assert classes == sorted(set(range(7)) - {label}, key=lambda j: -row[j])


def test_targets_are_met_in_order_by_those_who_stand():
    met = []

    def watched(logits, y, target):
        met.append(target)
        return targeted_dlr(logits, y, target)

    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 2.0, 3.0]])
    x, y = torch.full((2, 4), 0.5), torch.zeros(2, dtype=torch.long)
    attack = APGDT(eps=0.01, steps=1, targets=2, targeted_loss=watched)
    attack(lambda x: x + logits[: len(x)], x, y)
    assert [target.tolist() for target in met] == [[1, 3], [1, 3], [2, 2], [2, 2]]  # the start and a step each
    met.clear()
    APGDT(eps=0.01, steps=1, targets=9, targeted_loss=watched)(lambda x: x + logits[: len(x)], x, y)
    assert len(met) == 2 * 3  # as many as there are


def test_too_few_classes_for_the_ratio_are_an_error_with_a_way_out():
    _, net = linear(classes=3)
    x = torch.rand(5, 30)
    with pytest.raises(ValueError, match="at least 4 classes, got 3"):
        APGDT()(net, x, net(x).argmax(1))

    def difference(logits, y, target):
        return (logits.gather(1, target.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)

    attack = APGDT(eps=0.5, steps=10, targeted_loss=difference)
    assert not is_correct(net(attack(net, x, net(x).argmax(1))), net(x).argmax(1)).any()


@pytest.mark.parametrize("build", [APGD, APGDT])
def test_more_restarts_find_no_less_per_image(build):
    net = wavy_net()
    x, keys = torch.rand(120, 8, dtype=torch.float64), image_keys(torch.arange(120))
    y = net(x).argmax(1)
    robust = [is_correct(net(build(eps=0.02, steps=4, restarts=r)(net, x, y, keys=keys)), y) for r in (1, 2, 5)]
    for fewer, more in itertools.pairwise(robust):
        assert not bool((more & ~fewer).any())


def test_no_weaker_than_pgd_of_as_many_steps():
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
    assert found["apgd"] <= found["pgd"] + 3  # of 300: neither contains the other
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
