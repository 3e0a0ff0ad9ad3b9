import math

import pytest
import torch

from kafnets import activations as act
from kafnets.activations import curves


def test_plot_is_the_function_and_its_slope():
    found = act.ELU(2).plot((-1.0, 1.0), points=5)
    assert found.x.tolist() == [-1, -0.5, 0, 0.5, 1]
    torch.testing.assert_close(found.values[1], torch.nn.functional.elu(found.x))
    torch.testing.assert_close(found.slopes[0], torch.where(found.x > 0, 1.0, found.x.exp()))
    with pytest.raises(ValueError, match="points must be an integer >= 2, got 1"):
        act.ELU(2).plot(points=1)
    with pytest.raises(ValueError, match="interval must be finite"):
        act.ELU(2).plot((-math.inf, 1.0))


def test_a_curve_computed_in_pieces_is_the_same(monkeypatch):
    whole = act.SiLU(3).plot()
    monkeypatch.setattr(curves, "CHUNK", 100)
    again = act.SiLU(3).plot()
    assert torch.equal(whole.values, again.values) and torch.equal(whole.slopes, again.slopes)
