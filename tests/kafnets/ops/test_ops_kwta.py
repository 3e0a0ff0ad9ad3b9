import math

import pytest
import torch

from kafnets import functional, ops


@pytest.mark.parametrize("shape", [(4, 10), (3, 2, 4, 4), (2, 3, 2, 2, 2), (0, 3, 2), (1, 1)])
@pytest.mark.parametrize("ratio", [1e-6, 0.07, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_agrees_with_the_reference(shape, ratio, dtype):
    x = torch.randn(shape).to(dtype)
    assert torch.equal(ops.kwta(x, ratio), functional.kwta(x, ratio))


def test_each_sample_has_its_own_threshold():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    assert ops.kwta(x, 0.5).tolist() == [[0, 0, 3, 4], [0, 0, 30, 40]]


def test_ties_and_equal_rows_are_kept():
    x = torch.tensor([[1.0, 2.0, 2.0, 2.0], [-3.0, -3.0, -3.0, -3.0]])
    assert ops.kwta(x, 0.25).tolist() == [[0, 2, 2, 2], [-3, -3, -3, -3]]


def test_nan_and_infinity():
    x = torch.tensor([[math.nan, 1.0, 2.0, -math.inf], [math.inf, -math.inf, 1.0, 0.0]])
    for function in (ops.kwta, functional.kwta):
        found = function(x, 0.5)
        assert found[0].isnan().tolist() == [True, False, False, False]
        assert found[0, 1:].tolist() == [0, 2, 0]
        assert found[1].tolist() == [math.inf, 0, 1, 0]


def test_layout_is_kept():
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    found = ops.kwta(x, 0.3)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, functional.kwta(x.contiguous(), 0.3))


def test_gradient_is_the_mask_to_any_order():
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    y = ops.kwta(x, 0.4)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.equal(slope, (y != 0).to(slope))
    assert torch.autograd.gradcheck(lambda t: ops.kwta(t, 0.4), x)
    assert torch.autograd.gradgradcheck(lambda t: ops.kwta(t, 0.4), x)


def test_saves_only_the_mask():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        ops.kwta(torch.randn(3, 8, requires_grad=True), 0.4)
    assert [t.dtype for t in saved] == [torch.bool]


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, math.nan])
def test_a_bad_ratio_is_named(ratio):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], got"):
        ops.kwta(torch.zeros(1, 2), ratio)
