"""APGD in L1: its phases and its sparse steps against the algorithm for one image, and an optimum by hand."""

import math

import pytest
import torch

from kafnets.attacks import APGD, L1, L2, Linf
from kafnets.attacks.apgd_ascent import MomentumClimb, SparseClimb, climb_for
from kafnets.keyed_random import normal
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy, dlr, margin

from .apgd_cases import linear, watched_ascent, wavy_net


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


@pytest.mark.parametrize(("loss", "steps"), [(cross_entropy, 10), (dlr, 60), (cross_entropy, 150)])
def test_in_l1_every_image_follows_the_algorithm_of_its_own(loss, steps):
    net, n, eps = wavy_net(), 8, 1.0
    x, keys = torch.rand(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(n)
    y, record = net(x).argmax(1), []
    found = watched_ascent(
        net,
        x,
        y,
        keys,
        climb=SparseClimb,
        before_move=lambda climb: record.append((climb.step_size.clone(), (2 * climb.changed / 3).ceil().clamp_min(1))),
        eps=eps,
        steps=steps,
        norm=L1(),
        loss=loss,
    )
    starts = L1().project(x + normal(keys, (8,)).double(), x, 3 * eps)
    for i in range(n):
        point, expected = sparse_by_hand(net, loss, eps, steps, x[i : i + 1], y[i : i + 1], starts[i : i + 1])
        steps_taken = torch.tensor([[alpha[i].item(), few[i].item()] for alpha, few in record])
        torch.testing.assert_close(steps_taken, torch.tensor(expected))
        torch.testing.assert_close(found[i], point[0])
    assert len({few.item() for _, moved in record for few in moved}) > 2


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 10, 33, 100])
def test_the_phases_of_l1_use_all_steps_and_end_within_eps(steps):
    phases = SparseClimb.phases(2.0, steps)
    assert sum(phase.steps for phase in phases) == steps
    assert [phase.eps for phase in phases] == [6.0, 4.0, 2.0][-len(phases) :]
    assert min(phase.steps for phase in phases) >= 1
    assert len(phases) == 1 or phases[-1].steps >= phases[0].steps


def test_which_ascent_belongs_to_which_norm():
    class Mine(L1):
        pass

    assert climb_for(Mine()) is SparseClimb
    assert climb_for(L2()) is climb_for(Linf()) is MomentumClimb


def test_errors_in_a_wider_ball_do_not_count():
    def net(x):  # wrong only beyond an L1 distance of 0.25
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
