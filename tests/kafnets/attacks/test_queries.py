"""The logits that a network returns to an attack are checked, and in evaluation its gradients too."""

import pytest
import torch

from kafnets.attacks import PGD
from kafnets.attacks.gradient_estimators import Autograd
from kafnets.attacks.queries import EvaluatedNet, QueriedNet, TrainedNet
from kafnets.losses import cross_entropy

X, Y = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
NAN, INF = float("nan"), float("inf")

every_net = pytest.mark.parametrize(
    "wrap",
    [QueriedNet, TrainedNet, lambda net, labels: EvaluatedNet(net, labels, "PGD")],
    ids=["queried", "trained", "evaluated"],
)


def scripted(*outputs):
    """A network that returns these outputs one after another."""
    remaining = list(outputs)
    return lambda x: remaining.pop(0)


@every_net
def test_logits_are_returned_unchanged(wrap):
    logits = torch.randn(4, 3)
    assert wrap(lambda x: logits, Y)(X) is logits


@every_net
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(4), r"the network must return logits \(4, classes\), got shape \(4,\)"),
        (torch.zeros(2, 3), r"the network must return logits \(4, classes\), got shape \(2, 3\)"),
        (torch.zeros(1, 4, 3), r"the network must return logits \(4, classes\), got shape \(1, 4, 3\)"),
        ((torch.zeros(4, 3),), "the network must return a tensor of logits, got tuple"),
        (None, "the network must return a tensor of logits, got NoneType"),
    ],
)
def test_the_shape_is_checked_at_every_call(wrap, bad, message):
    with pytest.raises(ValueError, match=message):
        wrap(lambda x: bad, Y)(X)
    net = wrap(scripted(torch.zeros(4, 3), torch.zeros(4, 3), bad), Y)
    net(X)
    net(X)
    with pytest.raises(ValueError, match=message):
        net(X)


@every_net
def test_a_call_may_have_fewer_images_than_there_are_labels(wrap):
    net = wrap(lambda x: torch.zeros(len(x), 3), Y)
    assert [len(net(X[:count])) for count in (2, 4, 0, 1)] == [2, 4, 0, 1]


@every_net
@pytest.mark.parametrize(("labels", "low", "high"), [([0, 1, 2, 3], 0, 3), ([-1, 0, 1, 2], -1, 2)])
def test_labels_are_checked_at_the_first_call(wrap, labels, low, high):
    net = wrap(lambda x: torch.zeros(len(x), 3), torch.tensor(labels))
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 2\] for 3 classes, got {low} to {high}"):
        net(X)


@every_net
def test_labels_are_read_once(wrap):
    net = wrap(scripted(torch.zeros(4, 3), torch.zeros(4, 2)), Y)
    net(X)
    assert net(X).shape == (4, 2)  # class 2 would not fit


@every_net
def test_a_first_call_that_fails_for_its_shape_leaves_the_labels_to_the_next(wrap):
    net = wrap(scripted(torch.zeros(4), torch.zeros(4, 2)), Y)
    with pytest.raises(ValueError, match="the network must return logits"):
        net(X)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\] for 2 classes, got 0 to 2"):
        net(X)


@every_net
def test_soft_targets_must_have_as_many_columns_as_there_are_classes(wrap):
    targets = torch.full((4, 3), 1 / 3)
    assert wrap(lambda x: torch.zeros(4, 3), targets)(X).shape == (4, 3)
    with pytest.raises(ValueError, match=r"targets \(4, 3\) do not fit logits of shape \(4, 5\)"):
        wrap(lambda x: torch.zeros(4, 5), targets)(X)


def found(*, bad_row=None, value=NAN, correct=True):
    """Gradient and logits at images that are all classified correctly, or none; one gradient may hold a bad value."""
    grad = torch.ones(4, 3)
    if bad_row is not None:
        grad[bad_row, 1] = value
    logits = torch.eye(3)[Y if correct else (Y + 1) % 3]
    return grad, logits


def evaluated():
    return EvaluatedNet(lambda x: x, Y, "PGD-50-1")


MESSAGE = "PGD-50-1: the gradient of the network is not finite, so no attack can follow it"


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("row", [0, 3])
def test_a_gradient_that_is_not_finite_at_a_correct_image_is_refused(row, value):
    with pytest.raises(ValueError, match=MESSAGE):
        evaluated().watch(*found(bad_row=row, value=value), Y, refuse_now=True)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_at_misclassified_images_any_gradient_is_accepted(value):
    net = evaluated()
    net.watch(*found(bad_row=0, value=value, correct=False), Y, refuse_now=True)
    net.refuse_unusable()


def test_logits_that_are_not_finite_count_as_misclassified():
    grad, logits = found(bad_row=0)
    logits[0, 2] = NAN
    evaluated().watch(grad, logits, Y, refuse_now=True)


def test_finite_gradients_are_accepted_zeros_and_huge_ones_included():
    net = evaluated()
    for value in (0.0, torch.finfo(torch.float32).max, -1.0):
        net.watch(*found(bad_row=1, value=value), Y, refuse_now=True)
    net.watch(torch.zeros(4, 3), torch.eye(3)[Y], Y, refuse_now=True)
    net.refuse_unusable()


def test_a_gradient_is_remembered_until_it_is_refused_once():
    net = evaluated()
    net.watch(*found(bad_row=2), Y, refuse_now=False)
    net.watch(*found(), Y, refuse_now=False)
    with pytest.raises(ValueError, match=MESSAGE):
        net.watch(*found(), Y, refuse_now=True)
    net.refuse_unusable()
    net.watch(*found(bad_row=2), Y, refuse_now=False)
    with pytest.raises(ValueError, match=MESSAGE):
        net.refuse_unusable()


def test_without_any_gradient_there_is_nothing_to_refuse():
    evaluated().refuse_unusable()


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient that is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * NAN


def test_the_estimates_of_an_attack_are_refused_in_evaluation_only():
    def net(x):
        return 9 * NanGradient.apply(x)

    y = X.argmax(1)
    attack = PGD()
    for wrapped in (net, QueriedNet(net, y), TrainedNet(net, y)):
        assert attack.estimate(wrapped, cross_entropy, X, (y,)).grad.isnan().all()
    with pytest.raises(ValueError, match=rf"^{attack}: the gradient of the network is not finite"):
        attack.estimate(EvaluatedNet(net, y, str(attack)), cross_entropy, X, (y,))
    # an estimator by itself refuses nothing
    assert Autograd()(EvaluatedNet(net, y, str(attack)), cross_entropy, X, (y,), None, 0).grad.isnan().all()
