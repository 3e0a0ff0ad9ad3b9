"""Errors for settings, images, labels, keys, logits and gradients that cannot be right."""

import pytest
import torch

from kafnets.attacks import (
    APGD,
    APGDT,
    CW,
    FAB,
    FGSM,
    L1,
    L2,
    MIFGSM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    Linf,
    Square,
)

X, Y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
WEIGHT = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def net(x):
    return x.to(WEIGHT.dtype) @ WEIGHT


@pytest.mark.parametrize("attack", [FGSM, PGD])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, r"eps must lie in \[0, 1\].*got -0.1$"),
        ({"eps": 8}, r"eps must lie in \[0, 1\].*got 8; for 8 grey levels write 8/255"),
        ({"eps": float("nan")}, "eps must lie in"),
        ({"eps": float("inf")}, "eps must lie in"),
        ({"eps": "abc"}, "eps must be a number or a fraction such as 8/255, got 'abc'"),
        ({"eps": "8/0"}, "eps must be a number or a fraction such as 8/255, got '8/0'"),
        ({"eps": "8/255/2"}, "eps must be a number or a fraction"),
        ({"eps": -0.1, "norm": L2()}, "eps must be >= 0 and finite, got -0.1"),
        ({"eps": float("inf"), "norm": L2()}, "eps must be >= 0 and finite, got inf"),
        ({"eps": -0.1, "norm": L1()}, "eps must be >= 0 and finite, got -0.1"),
        ({"restarts": 0}, "restarts must be >= 1, got 0"),
    ],
)
def test_settings_of_every_attack(attack, settings, message):
    with pytest.raises(ValueError, match=message):
        attack(**settings)


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (PGD, {"step_size": 0}, "step_size must be > 0 and finite, got 0"),
        (PGD, {"step_size": -1}, "step_size must be > 0 and finite, got -1"),
        (PGD, {"step_size": float("nan")}, "step_size must be > 0 and finite, got nan"),
        (PGD, {"step_size": "two"}, "step_size must be a number or a fraction"),
        (PGD, {"steps": 0}, "steps must be >= 1, got 0"),
        (FGSM, {"alpha": 0}, "alpha must be > 0 and finite, got 0"),
        (FGSM, {"alpha": float("inf")}, "alpha must be > 0 and finite, got inf"),
    ],
)
def test_settings_of_one_attack(attack, settings, message):
    with pytest.raises(ValueError, match=message):
        attack(**settings)


def test_fractions_are_numbers():
    assert PGD(eps="8/255", step_size="2/255").eps == 8 / 255
    assert PGD(eps="0.5", norm=L2()).eps == 0.5
    assert PGD(eps=3, norm=L2()).eps == 3.0


def images(value):
    x = X.clone()
    x[1, 2] = value
    return x


both_uses = pytest.mark.parametrize("use", [PGD.__call__, PGD.craft], ids=["evaluate", "craft"])


@both_uses
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (images(1.5), Y, r"images must be finite and in \[0, 1\], got values from .* to 1.5; normalisation belongs"),
        (images(-0.5), Y, r"images must be finite and in \[0, 1\], got values from -0.5"),
        (images(float("nan")), Y, "images must be finite"),
        (images(float("inf")), Y, "images must be finite"),
        ((X * 255).to(torch.uint8), Y, "images must be floating point.*got torch.uint8; divide uint8 by 255"),
        (X, Y[:3], r"labels must be int64 of shape \(4,\), got torch.int64 of shape \(3,\)"),
        (X, Y.unsqueeze(1), r"labels must be int64 of shape \(4,\), got .* \(4, 1\)"),
        (X, torch.eye(3)[Y], r"labels must be int64 of shape \(4,\), got torch.float32 of shape \(4, 3\)"),
        (X, Y.float(), "labels must be int64"),
        (X, Y.int(), "labels must be int64"),
        (X, Y > 0, "labels must be int64.*got torch.bool"),
        (X, Y + 1, r"labels must lie in \[0, 2\] for 3 classes, got 1 to 3"),
        (X, Y - 1, r"labels must lie in \[0, 2\] for 3 classes, got -1 to 1"),
    ],
)
def test_images_and_labels(x, y, message, use):
    if use is PGD.craft and y.shape == (4, 3):
        pytest.skip("training takes soft targets")
    with pytest.raises(ValueError, match=message):
        use(PGD(steps=1), net, x, y)


def test_one_key_for_all_images_is_refused():
    for use in (FGSM().craft, FGSM()):
        with pytest.raises(ValueError, match=r"keys must be one per image, shape \(4,\), got \(1,\)"):
            use(net, X, Y, keys=torch.tensor([1]))


@both_uses
@pytest.mark.parametrize(
    ("bad", "shape"),
    [
        (lambda x: net(x)[:, 0], r"\(4,\)"),
        (lambda x: net(x)[:2], r"\(2, 3\)"),
        (lambda x: net(x)[None], r"\(1, 4, 3\)"),
    ],
)
def test_logits_of_a_wrong_shape(bad, shape, use):
    with pytest.raises(ValueError, match=rf"the network must return logits \(4, classes\), got shape {shape}"):
        use(PGD(steps=1), bad, X, Y)


@pytest.mark.parametrize("attack", [PGD, FGSM, MIFGSM, APGD, APGDT, FAB, DeepFool, CW, Square, AutoAttack])
def test_fewer_than_two_classes_are_refused(attack):
    for use in (attack().__call__, attack().craft):
        with pytest.raises(ValueError, match=r"logits of two classes or more, got shape \(\d, 1\)"):
            use(lambda x: net(x)[:, :1], X, 0 * Y)


class BadGradient(torch.autograd.Function):
    """The identity, with a gradient that is ``value`` for the first image."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[0] = ctx.value
        return grad, None


bad_values = pytest.mark.parametrize("value", [float("nan"), float("inf")])
norms = pytest.mark.parametrize("norm", [Linf(), L2(), L1()])


@bad_values
@norms
@pytest.mark.parametrize("settings", [{}, {"restarts": 2}])
def test_a_gradient_that_is_not_finite_is_refused_in_evaluation(value, norm, settings):
    with pytest.raises(ValueError, match="the gradient of the network is not finite"):
        PGD(steps=2, norm=norm, **settings)(lambda x: net(BadGradient.apply(x, value)), X, net(X).argmax(1))


@bad_values
@norms
def test_training_continues_with_finite_images(value, norm):
    attack = FGSM(norm=norm)
    x_adv = attack.craft(lambda x: net(BadGradient.apply(x, value)), X, net(X).argmax(1))
    assert torch.isfinite(x_adv).all()


@norms
def test_logits_that_are_not_finite_count_as_misclassified(norm):
    def broken(x):  # NaN for bright images, gradient and all
        return net(x) * torch.where(x.sum(1, keepdim=True) > 3, float("nan"), 1.0)

    x = torch.tensor([[0.2] * 6, [0.9] * 6])
    y = net(x).argmax(1)
    x_adv = PGD(eps=0.01, steps=3, norm=norm)(broken, x, y)
    assert torch.equal(x_adv[1], x[1])
    assert not torch.equal(x_adv[0], x[0])


def test_an_attempt_that_returns_nan_is_refused():
    class Broken(Attack):
        def run(self, net, x, y, keys, *, early_stop):
            return x * float("nan")

    with pytest.raises(ValueError, match="an attempt returned images that are not finite"):
        Broken()(net, X, net(X).argmax(1))


def test_an_attack_without_a_search_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Attack()
