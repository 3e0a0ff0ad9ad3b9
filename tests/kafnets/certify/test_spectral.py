"""Spectral norms of convolutions, beside those of the dense matrix of the same map."""

import pytest
import torch
from torch import nn

from kafnets.backbones.same_conv import SameConv2d
from kafnets.certify.spectral import conv_norm, largest_singular_value


def dense_norm(conv: nn.Conv2d, channels: int, height: int, width: int) -> float:
    """The exact norm of a convolution without its bias, from its matrix."""
    basis = torch.eye(channels * height * width, dtype=torch.float64).view(-1, channels, height, width)
    matrix = (conv(basis) - conv(torch.zeros_like(basis[:1]))).flatten(1)
    return torch.linalg.matrix_norm(matrix, 2).item()


CONVS = {
    "3x3": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "3x3 without padding": lambda: nn.Conv2d(2, 3, 3),
    "5x5, more padding than needed": lambda: nn.Conv2d(2, 2, 5, padding=3),
    "2x3, uneven padding": lambda: nn.Conv2d(3, 2, (2, 3), padding=(0, 1)),
    "same by name": lambda: nn.Conv2d(2, 2, (2, 3), padding="same"),
    "stride 2": lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1),
    "stride 3 above the kernel's size": lambda: nn.Conv2d(2, 3, 2, stride=3),
    "strides 1 and 2": lambda: nn.Conv2d(2, 3, 3, stride=(1, 2), padding=1),
    "1x1, stride 2": lambda: nn.Conv2d(3, 4, 1, stride=2, bias=False),
    "dilation 2": lambda: nn.Conv2d(2, 2, 3, dilation=2, padding=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "the thesis's, stride 1": lambda: SameConv2d(2, 3),
    "the thesis's, stride 2": lambda: SameConv2d(2, 3, stride=2),
}


@pytest.mark.parametrize("size", [(6, 6), (4, 8)], ids=str)
@pytest.mark.parametrize("name", CONVS)
def test_the_bound_of_a_convolution_is_never_below_its_norm_and_close_to_it(name, size):
    torch.manual_seed(0)
    for _ in range(3):
        conv = CONVS[name]().double()
        with torch.no_grad():
            exact = dense_norm(conv, conv.in_channels, *size)
            bound = conv_norm(conv, conv.weight, size).item()
        assert exact <= bound <= 1.6 * exact, (exact, bound)


def test_the_transform_at_the_size_of_the_input_would_be_too_small():
    conv = nn.Conv2d(1, 1, (1, 2), padding=(0, 1), bias=False).double()
    conv.weight.data.copy_(torch.tensor([[[[-1.0, 1.0]]]]))
    exact = dense_norm(conv, 1, 1, 5)
    short = torch.fft.fft(conv.weight[0, 0, 0], 5).abs().max().item()
    assert short == pytest.approx(1.9021, abs=1e-4) and exact == pytest.approx(1.9319, abs=1e-4)
    assert exact <= conv_norm(conv, conv.weight, (1, 5)).item()


@pytest.mark.parametrize("shape", [(3, 3), (2, 7), (64, 5)])
def test_gram_iteration_is_never_below_the_norm_and_has_its_gradient(shape):
    torch.manual_seed(0)
    matrix = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    bound = largest_singular_value(matrix[None])
    exact = torch.linalg.matrix_norm(matrix, 2)
    assert exact <= bound <= 1.001 * exact
    slopes = [torch.autograd.grad(value, matrix)[0] for value in (bound, exact)]
    torch.testing.assert_close(*slopes, rtol=0.1, atol=1e-2)


def test_sizes_far_from_one_and_zeros_do_not_overflow():
    tiny, huge = (largest_singular_value(scale * torch.eye(3).double()[None]).item() for scale in (1e-90, 1e90))
    assert 1e-90 <= tiny < 1.1e-90 and 1e90 <= huge < 1.1e90
    assert largest_singular_value(torch.zeros(1, 3, 3).double()).item() < 1e-60
