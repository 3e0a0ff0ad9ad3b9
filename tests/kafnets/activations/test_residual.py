from functools import partial

import pytest
import torch

from kafnets.activations import ELU, KAF, KWTA, Identity, Matern32, MultiKAF, Normal, ResidualKAF, SiLU, Swish


@pytest.mark.parametrize("base", [None, SiLU, ELU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_zero_kaf_leaves_the_base_bit_for_bit(base, dtype):
    layer = ResidualKAF(3, base=base, kaf=partial(KAF, init=Normal(std=0.0)))
    x = torch.cat([5 * torch.randn(200, 3), torch.tensor([[torch.inf, 1e30, -1e30]])]).to(dtype)
    assert torch.equal(layer(x), (base or Identity)(3)(x))


def test_is_the_sum():
    layer = ResidualKAF(3, base=SiLU, kaf=partial(KAF, kernel=Matern32()))
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(layer(x), layer.base(x) + layer.kaf(x))
    assert {n for n, _ in layer.named_parameters()} == {"kaf.alpha"}
    layer(x).sum().backward()
    assert layer.kaf.alpha.grad.abs().sum() > 0


def test_labels():
    assert ResidualKAF(3).label == "Identity+KAF"
    assert ResidualKAF(3, base=Swish, kaf=partial(KAF, kernel=Matern32())).label == "SiLU+KAF_Matern32"
    assert ResidualKAF(3, kaf=MultiKAF).label.startswith("Identity+MultiKAF_")


def test_a_base_that_is_not_pointwise_has_no_bounds():
    layer = ResidualKAF(3, base=KWTA)
    assert layer(torch.randn(2, 3)).shape == (2, 3)
    with pytest.raises(TypeError, match="each output of ResidualKAF depends on many"):
        layer.lipschitz()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kaf": ELU}, "kaf must be a factory that builds a KernelActivation"),
        ({"kaf": KAF(3)}, "kaf must be a factory that builds a KernelActivation"),
        ({"base": torch.nn.ReLU}, "base must be a factory that builds a Activation"),
        ({"base": "ELU"}, "base must be a factory that builds a Activation"),
    ],
)
def test_wrong_parts_are_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        ResidualKAF(3, **settings)
