"""Steps that a chain refuses."""

import pytest
import torch

from kafnets.fused.chain import ConvChain
from kafnets.fused.step import ConvStep
from kafnets.ops import dispatch

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)


def test_steps_that_do_not_fit_are_refused():
    wide, small = torch.rand(32, 16, 7, 7), torch.rand(16, 16, 3, 3)
    odd, large = torch.rand(7, 16, 3, 3), torch.rand(528, 512, 3, 3)
    for filters in (wide, torch.rand(16, 1, 9, 9), small.bfloat16(), odd, large):
        with pytest.raises(ValueError, match="no way to convolve"):
            ConvChain(1, [ConvStep(0, filters)])
    with pytest.raises(ValueError, match=r"2 inputs reads the values \[1\]"):
        ConvChain(2, [ConvStep(0, small)])
    with pytest.raises(ValueError, match=r"1 inputs reads the values \[1\]"):
        ConvChain(1, [ConvStep(0, small), ConvStep(0, small)])
    for name in ("scale", "shift", "skip_scale", "mean"):
        with pytest.raises(ValueError, match=rf"{name} must be of shape \(16,\), one per channel, got \(1,\)"):
            ConvChain(1, [ConvStep(0, small, **{name: torch.ones(1)})])
    with pytest.raises(ValueError, match="too small"):
        ConvChain(1, [ConvStep(0, wide[:16, :, :5, :5], padding=(0, 0))])(torch.rand(1, 16, 4, 4))
