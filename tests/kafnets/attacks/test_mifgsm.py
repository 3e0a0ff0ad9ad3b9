"""MI-FGSM against its formula."""

import pytest
import torch

from kafnets.attacks import L2, PGD, Linf
from kafnets.attacks.mifgsm import MIFGSM
from kafnets.losses import cross_entropy


def net(x):
    """Curved enough that the gradient turns."""
    return torch.stack([(7 * x).sin().sum(1), (5 * x).cos().sum(1)], 1)


X = torch.rand(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(10) % 2


@pytest.mark.parametrize("norm", [Linf(), L2()])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_the_formula(norm, decay):
    x_adv, momentum = X.clone(), torch.zeros_like(X)
    for _ in range(5):
        x_adv.requires_grad_(True)
        (grad,) = torch.autograd.grad(cross_entropy(net(x_adv), Y).sum(), x_adv)
        momentum = decay * momentum + grad / grad.abs().sum(1, keepdim=True)
        step = momentum.sign() if isinstance(norm, Linf) else momentum / momentum.norm(dim=1, keepdim=True)
        x_adv = norm.project(x_adv.detach() + 0.06 * step, X, 0.3)
    found = MIFGSM(eps=0.3, steps=5, decay=decay, norm=norm).craft(net, X, Y)
    torch.testing.assert_close(found, x_adv)


def test_without_momentum_it_is_pgd():
    settings = {"eps": 0.2, "steps": 6, "step_size": 0.05}
    found = MIFGSM(**settings, decay=0.0)(net, X, Y)
    torch.testing.assert_close(found, PGD(**settings, random_start=False)(net, X, Y))
    assert not torch.equal(found, MIFGSM(**settings, decay=1.0)(net, X, Y))


def test_with_a_zero_gradient_nothing_changes():
    x = torch.rand(2, 3)
    found = MIFGSM().craft(lambda x: 0 * x, x, torch.tensor([0, 1]))
    assert torch.equal(found, x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"step_size": 0}, "step_size must be > 0 and finite, got 0; the default is eps / steps"),
        ({"decay": -1.0}, "decay must be >= 0 and finite, got -1; the default is 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MIFGSM(**settings)


def test_names_and_step_sizes():
    assert str(MIFGSM()) == "MIFGSM-10 Linf eps 8/255"
    assert MIFGSM(eps="8/255", steps=4).step_size == pytest.approx(2 / 255)
    assert MIFGSM(eps=0).step_size == 0
