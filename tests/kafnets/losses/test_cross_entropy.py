import math

import pytest
import torch

from kafnets.losses import cross_entropy


def test_by_hand_one_value_per_image():
    logits, y = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([1, 1])
    torch.testing.assert_close(cross_entropy(logits, y), torch.tensor([math.log(2), math.log(4)]))


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised_and_double_kept(given, returned):
    assert cross_entropy(torch.zeros(2, 3, dtype=given), torch.tensor([0, 1])).dtype == returned


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[1e4, 0.0], [3e38, -3e38]])
    assert torch.isfinite(cross_entropy(logits, torch.tensor([1, 0]))).all()


def test_gradient_is_softmax_minus_one_hot():
    logits, y = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randint(4, (5,))
    (grad,) = torch.autograd.grad(cross_entropy(logits, y).sum(), logits)
    torch.testing.assert_close(grad, logits.detach().softmax(1) - torch.eye(4, dtype=torch.float64)[y])
