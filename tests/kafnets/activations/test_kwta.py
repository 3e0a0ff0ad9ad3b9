import io

import pytest
import torch

from kafnets import functional
from kafnets.activations import KWTA


def test_uses_the_current_ratio():
    layer, x = KWTA(2, ratio=0.5), torch.randn(3, 2, 4, 4)
    layer.ratio = 0.25
    assert torch.equal(layer(x), functional.kwta(x, 0.25))
    assert "ratio=0.25" in repr(layer)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, float("nan")])
def test_bad_ratios_are_refused_when_built_and_later(ratio):
    with pytest.raises(ValueError, match="ratio"):
        KWTA(2, ratio=ratio)
    layer = KWTA(2)
    with pytest.raises(ValueError, match="ratio"):
        layer.ratio = ratio
    assert layer.ratio == 0.2


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_resumed_layer_takes_the_scheduled_ratio():
    trained = KWTA(2, ratio=0.3)
    trained.ratio = 0.15
    again = KWTA(2, ratio=0.3)
    again.load_state_dict(through_a_file(trained.state_dict()))
    assert again.ratio == 0.15


def test_a_ratio_given_explicitly_is_kept():
    trained = KWTA(2, ratio=0.3)
    trained.ratio = 0.15
    asked = KWTA(2, ratio=0.1)
    asked.load_state_dict(through_a_file(trained.state_dict()))
    assert asked.ratio == 0.1
