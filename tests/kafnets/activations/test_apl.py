import pytest
import torch

from kafnets.activations import APL


def test_is_the_formula():
    layer = APL(4, hinges=3)
    x = 2 * torch.randn(5, 4, 6)
    expected = x.clamp_min(0)
    for s in range(3):
        a, b = layer.slopes[s].view(4, 1), layer.offsets[s].view(4, 1)
        expected = expected + a * (b - x).clamp_min(0)
    torch.testing.assert_close(layer(x), expected)


def test_starts_as_the_authors_code():
    torch.manual_seed(0)
    layer = APL(2000)
    assert layer.slopes.shape == layer.offsets.shape == (5, 2000)
    assert layer.slopes.abs().max() <= 0.2
    assert layer.slopes.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.05)
    assert layer.offsets.std().item() == pytest.approx(0.5, rel=0.05)


def test_bounds_know_bends_on_either_side_of_zero():
    layer = APL(1, hinges=2)
    with torch.no_grad():
        layer.slopes.copy_(torch.tensor([[0.5], [-2.0]]))
        layer.offsets.copy_(torch.tensor([[1.0], [-1.0]]))
    bounds = layer.bounds()
    assert bounds.knots.tolist() == [[-1, 0, 1]]
    assert bounds.slopes.tolist() == [[1.5, -0.5, 0.5, 1]]


@pytest.mark.parametrize("hinges", [0, -1, 2.0, True])
def test_bad_hinges_are_named(hinges):
    with pytest.raises(ValueError, match=r"hinges must be an integer >= 1, got .*; the default is 5"):
        APL(2, hinges=hinges)
