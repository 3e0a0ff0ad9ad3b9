import pytest
import torch

from kafnets.activations.piecewise import piecewise


def by_hand(x, pieces, first, step):
    """The same, computed value by value."""
    out = torch.empty_like(x)
    knots = pieces.shape[2] - 1
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            position = (x[n, c] - first) / step
            knot = min(max(int(position.floor()), -1), knots - 1)
            u = position - max(knot, 0)
            out[n, c] = sum(pieces[p, c, knot + 1] * u**p for p in range(len(pieces)))
    return out


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_matches_a_loop_over_values(degree):
    pieces = torch.randn(degree + 1, 3, 6, dtype=torch.float64)
    x = 2 * torch.randn(30, 3, dtype=torch.float64)
    torch.testing.assert_close(piecewise(x, pieces, first=-1.0, step=0.5), by_hand(x, pieces, -1.0, 0.5))


def test_a_knot_belongs_to_its_right_piece():
    pieces = torch.tensor([[[1.0, 2.0, 3.0]]])
    found = piecewise(torch.tensor([[-1.0], [0.0], [0.9], [1.0], [5.0]]), pieces, first=0.0, step=1.0)
    assert found[:, 0].tolist() == [1, 2, 2, 3, 3]


def test_scale_is_per_channel():
    pieces = torch.randn(2, 3, 6)
    scale = torch.tensor([0.5, 1.0, 2.0])
    x = torch.randn(9, 3, 4)
    found = piecewise(x, pieces, scale, first=-1.0, step=0.5)
    torch.testing.assert_close(found, piecewise(x * scale.view(3, 1), pieces, first=-1.0, step=0.5))
