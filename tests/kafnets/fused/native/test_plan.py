"""Which steps share a transform."""

import dataclasses

import pytest
import torch

from kafnets.fused.native.plan import _joined
from kafnets.fused.native.steps import Method, NativeStep, ValueShape

SHAPES = [ValueShape(16, 8, 8), ValueShape(16, 8, 8), ValueShape(16, 8, 8, gates=True), ValueShape(16, 9, 8)]
# changes to the second step that prevent joining
DIFFERENCES = {
    "another source": {"source": 1, "target": 2},
    "another gate": {"gate": 2, "target": 2},
    "another method": {"method": Method.DIRECT, "target": 2},
    "another size": {"source": 3, "skip": 1},
    "more sums": {"weights": torch.empty(36, 2, 8, 16), "skip": 1},
    "not added": {"source": 2},
    "added through a gate": {"source": 2, "skip": 1, "skip_gate": 2},
    "ReLU": {"source": 2, "skip": 1, "relu": True},
    "a shift": {"source": 2, "skip": 1, "shift": torch.ones(16)},
    "a multiple": {"source": 2, "skip": 1, "skip_scale": torch.ones(16)},
}


@pytest.mark.parametrize("change", DIFFERENCES)
def test_steps_that_differ_are_not_joined(change):
    step = NativeStep(target=1, source=0, method=Method.SAME, weights=torch.empty(36, 1, 16, 16), before=1)
    for alike in ({"target": 2}, {"source": 2, "skip": 1}):
        assert _joined(SHAPES, [step, dataclasses.replace(step, **alike)])[1].joined
    assert not _joined(SHAPES, [step, dataclasses.replace(step, **DIFFERENCES[change])])[1].joined
