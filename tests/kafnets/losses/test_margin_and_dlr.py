"""Margins against loops over classes, their invariances, and their values where the formula is undefined."""

import pytest
import torch

from kafnets.logits import is_correct
from kafnets.losses import dlr, margin, targeted_dlr

LOSSES = {"margin": margin, "dlr": dlr, "targeted_dlr": lambda z, y: targeted_dlr(z, y, (y + 1) % z.shape[1])}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def logits_and_labels(n=200, classes=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, classes, generator=generator).to(dtype), torch.randint(classes, (n,), generator=generator)


def by_hand(row, label):
    """Margin, DLR and, towards each class, targeted DLR of one image, in Python's numbers."""
    others = max(value for at, value in enumerate(row) if at != label)
    first = sorted(row, reverse=True)
    untargeted = -(row[label] - others) / (first[0] - first[2])
    targeted = [-(row[label] - value) / (first[0] - (first[2] + first[3]) / 2) for value in row]
    return others - row[label], untargeted, targeted


def test_the_formulas():
    logits, y = logits_and_labels()
    expected = [by_hand(row, label) for row, label in zip(logits.tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(margin(logits, y), torch.tensor([e[0] for e in expected], dtype=torch.float64))
    torch.testing.assert_close(dlr(logits, y), torch.tensor([e[1] for e in expected], dtype=torch.float64))
    for target in range(6):
        found = targeted_dlr(logits, y, torch.full_like(y, target))
        torch.testing.assert_close(found, torch.tensor([e[2][target] for e in expected], dtype=torch.float64))


@pytest.mark.parametrize("loss", [margin, dlr])
def test_positive_where_wrong_and_negative_where_right(loss):
    logits, y = logits_and_labels()
    assert torch.equal(loss(logits, y) < 0, is_correct(logits, y))


@pytest.mark.parametrize("name", ["dlr", "targeted_dlr"])
def test_scale_and_shift_do_not_matter(name):
    logits, y = logits_and_labels()
    for scale in (1e-20, 1e-3, 1e8, 1e200):
        torch.testing.assert_close(LOSSES[name](scale * logits, y), LOSSES[name](logits, y))
    torch.testing.assert_close(LOSSES[name](logits + 5, y), LOSSES[name](logits, y))


@every_loss
def test_gradients(loss):
    logits, y = logits_and_labels(8)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, y), logits)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, y), logits)


@every_loss
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_logits_give_zero_and_a_finite_gradient_towards_an_error(loss, value):
    logits = torch.full((1, 5), value, requires_grad=True)
    found = loss(logits, torch.tensor([0]))
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert found.item() == 0
    assert torch.isfinite(grad).all()
    assert grad[0, 0] == -1
    assert grad[0, 1:].sum() == 1


def test_wrong_classes_that_tie_share_the_gradient():
    logits = torch.tensor([[0.0, 1.0, 1.0, -1.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(margin(logits, torch.tensor([0])).sum(), logits)
    assert grad.tolist() == [[-1.0, 0.5, 0.5, 0.0]]


@every_loss
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_raised(loss, given):
    logits, y = logits_and_labels(dtype=given)
    raised = given if given.itemsize >= 4 else torch.float32
    assert loss(logits, y).dtype == raised
    torch.testing.assert_close(loss(logits, y), loss(logits.to(raised), y))


@pytest.mark.parametrize(("name", "classes"), [("margin", 1), ("dlr", 2), ("targeted_dlr", 3)])
def test_too_few_classes_are_refused(name, classes):
    with pytest.raises(ValueError, match=rf"needs at least {classes + 1} classes, got {classes}"):
        LOSSES[name](torch.zeros(1, classes), torch.tensor([0]))


@every_loss
def test_an_empty_batch(loss):
    assert loss(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).shape == (0,)
