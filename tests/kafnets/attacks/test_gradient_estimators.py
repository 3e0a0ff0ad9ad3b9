"""Gradient estimators against the gradient itself, in and out of an attack."""

import json
import math

import pytest
import torch

from kafnets.attacks import PGD
from kafnets.attacks.gradient_estimators import EOT, Autograd, FiniteDifferences
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy, margin

KEYS = image_keys(torch.arange(6), 0)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
X = torch.rand(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def net(x):
    return (x.flatten(1) @ WEIGHT).tanh()


def exact(loss=cross_entropy):
    x = X.clone().requires_grad_()
    return torch.autograd.grad(loss(net(x), Y).sum(), x)[0]


def test_autograd_is_exact():
    estimate = Autograd()(net, cross_entropy, X, (Y,), None, 0)
    torch.testing.assert_close(estimate.grad, exact())
    torch.testing.assert_close(estimate.logits, net(X))
    torch.testing.assert_close(estimate.loss, cross_entropy(net(X), Y))
    assert not any(value.requires_grad for value in estimate)


def test_eot_of_a_deterministic_network_is_exact():
    for a, b in zip(EOT(3)(net, margin, X, (Y,), None, 0), Autograd()(net, margin, X, (Y,), None, 0), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(EOT(3).logits(net, X), net(X))


class Alternating:
    """Scales its logits by 1, 2, 3, ... in turn."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.calls * x


def test_eot_averages_single_evaluations():
    estimate = EOT(4)(Alternating(), lambda z, y: z.sum(1), torch.ones(2, 3), (torch.zeros(2),), None, 0)
    assert estimate.grad.unique().item() == estimate.logits.unique().item() == (1 + 2 + 3 + 4) / 4
    assert estimate.loss.tolist() == [3 * 2.5] * 2
    assert EOT(4).logits(Alternating(), torch.ones(1, 1)).item() == 2.5


def test_attacks_judge_by_the_mean_logits_of_the_estimator():
    torch.manual_seed(0)

    def coin(x):  # right in three of four evaluations, and on average
        return torch.stack([torch.where(torch.rand(len(x)) < 0.75, 1.0, -2.0) + 0 * x[:, 0], 0 * x[:, 0]], 1)

    x, y = torch.full((200, 2), 0.5), torch.zeros(200, dtype=torch.long)
    single = PGD(steps=1, restarts=2)
    averaged = PGD(steps=1, restarts=2, estimator=EOT(400))
    assert 0.1 < 1 - single._judge(coin, x, y)[0].float().mean() < 0.4
    assert averaged._judge(coin, x, y)[0].all()


def test_finite_differences_are_exact_on_average_for_a_linear_function():
    estimator = FiniteDifferences(sigma=0.3, samples={0: 40_000})
    found = estimator(lambda x: x.flatten(1) @ WEIGHT, margin_to_the_next, X, (Y,), KEYS, 0)
    expected = (WEIGHT[:, (Y + 1) % 3] - WEIGHT[:, Y]).T.reshape(6, 2, 3)
    error = (found.grad - expected).abs().max().item()
    # each entry has variance (g_j^2 + |g|^2) / pairs
    assert error < 5 * (2 * expected.square().flatten(1).sum(1).max().item() / 20_000) ** 0.5
    torch.testing.assert_close(found.logits, X.flatten(1) @ WEIGHT)


def margin_to_the_next(logits, y):
    return (logits.gather(1, (y.unsqueeze(1) + 1) % 3) - logits.gather(1, y.unsqueeze(1))).squeeze(1)


def test_finite_differences_by_hand():
    sigma, pairs = 0.1, 3
    estimator = FiniteDifferences(sigma=sigma, samples={0: 2 * pairs})
    noise = []

    def spy(x):
        noise.append(x)
        return net(x)

    found = estimator(spy, margin, X, (Y,), KEYS, 0)
    at, around = noise
    assert torch.equal(at, X)
    above, below = around.reshape(2, pairs, *X.shape)
    torch.testing.assert_close(above - X, X - below)
    expected = torch.zeros_like(X)
    for plus, minus in zip(above, below, strict=True):
        u = (plus - X) / sigma
        difference = margin(net(plus), Y) - margin(net(minus), Y)
        expected += difference.reshape(-1, 1, 1) * u / (2 * sigma) / pairs
    torch.testing.assert_close(found.grad, expected)


def test_finite_differences_do_not_depend_on_the_batch():
    def run(rows, batch_size=1000):
        estimator = FiniteDifferences(sigma=0.2, samples={0: 20}, batch_size=batch_size)
        return estimator(net, margin, X[rows], (Y[rows],), KEYS[rows], 3).grad

    whole = run(torch.arange(6))
    torch.testing.assert_close(torch.cat([run(rows) for rows in torch.arange(6).split(4)]), whole)
    for batch_size in (2, 24, 60):
        torch.testing.assert_close(run(torch.arange(6), batch_size), whole)


def test_finite_differences_keep_to_their_batch_size():
    sizes = []

    def spy(x):
        sizes.append(len(x))
        return net(x)

    FiniteDifferences(sigma=0.2, samples={0: 20}, batch_size=50)(spy, margin, X, (Y,), KEYS, 0)
    assert sizes == [6, 48, 48, 24]


def test_samples_grow_with_the_steps_and_every_step_draws_anew():
    counts, grads = [], []

    def spy(x):
        counts.append(len(x))
        return net(x)

    estimator = FiniteDifferences(sigma=0.2, samples={0: 2, 2: 6})
    for step in range(4):
        grads.append(estimator(spy, margin, X[:1], (Y[:1],), KEYS[:1], step).grad)
    assert counts == [1, 2, 1, 2, 1, 6, 1, 6]
    assert not torch.equal(grads[0], grads[1])
    assert FiniteDifferences(sigma=1).samples == {0: 100, 20: 1000, 40: 20000}


def staircase(x):
    """Flat almost everywhere, falling in steps of a tenth along the sum of the pixels."""
    return torch.stack([((6 - x.sum(1)) * 10).floor(), torch.full((len(x),), 30.0)], 1)


def test_finite_differences_find_errors_where_the_gradient_is_zero():
    x, y = torch.full((5, 6), 0.4), torch.zeros(5, dtype=torch.long)
    settings = {"eps": 0.2, "step_size": 0.02, "steps": 30, "random_start": False, "loss": margin}
    smooth = FiniteDifferences(sigma=0.2, samples={0: 100})
    assert is_correct(staircase(PGD(**settings, estimator=smooth)(staircase, x, y)), y).sum() == 0
    without = PGD(**settings)(lambda x: staircase(x) + 0 * x.sum(1, keepdim=True), x, y)
    assert is_correct(staircase(without), y).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EOT(0), "samples must be >= 1, got 0"),
        (lambda: FiniteDifferences(sigma=0), "sigma must be > 0 and finite, got 0"),
        (lambda: FiniteDifferences(sigma=math.nan), "sigma must be > 0 and finite, got nan"),
        (lambda: FiniteDifferences(sigma=1, samples={1: 10}), "samples must say an even number >= 2 for step 0"),
        (lambda: FiniteDifferences(sigma=1, samples={0: 3}), r"an even number >= 2 .* got \{0: 3\}"),
        (lambda: FiniteDifferences(sigma=1, batch_size=1), "batch_size must be >= 2, got 1"),
        (lambda: FiniteDifferences(sigma=1)(net, margin, X, (Y,), None, 0), "they need the keys of the images"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_settings_name_the_estimator():
    found = PGD(estimator=EOT(5, of=FiniteDifferences(sigma=0.1, samples={0: 2}))).settings()
    assert json.loads(json.dumps(found))["estimator"] == (
        "EOT(samples=5, of=FiniteDifferences(sigma=0.1, samples={0: 2}))"
    )
