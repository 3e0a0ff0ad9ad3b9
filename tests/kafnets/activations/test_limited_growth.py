import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import KAF, LimitedGrowth, Matern32, MultiKAF, Normal, ResidualKAF, Ridge


@pytest.mark.parametrize("start", [Normal(0.3), Ridge(F.relu), Ridge(torch.cos)], ids=repr)
def test_it_limits_the_growth_and_normalises_the_variance(start):
    torch.manual_seed(0)
    moments = KAF(5, init=LimitedGrowth(start, growth=1.1)).gaussian_moments()
    assert moments.gradient_growth.tolist() == pytest.approx([1.1] * 5, rel=1e-4)
    assert moments.variance.tolist() == pytest.approx([1.0] * 5, rel=1e-4)


def test_a_start_below_the_limit_is_only_scaled():
    plain, limited = KAF(1, init=Ridge(F.elu)), KAF(1, init=LimitedGrowth(Ridge(F.elu), growth=1.5))
    scale = plain.gaussian_moments().variance.sqrt().float()
    assert torch.allclose(limited.alpha * scale, plain.alpha, rtol=1e-3, atol=1e-4)


def test_it_serves_every_kind_of_kaf():
    torch.manual_seed(0)
    init = LimitedGrowth(growth=1.2)
    for layer in (KAF(2, kernel=Matern32(), init=init), MultiKAF(2, init=init), KAF(2, init=init, free=True)):
        assert layer.gaussian_moments().gradient_growth.max() < 1.21
    assert KAF(2, init=init).label == "KAF_Growth1.2"
    with torch.device("meta"):
        assert ResidualKAF(2, kaf=lambda channels: KAF(channels, init=init)).kaf.alpha.is_meta


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match=r"growth=1.0001 cannot be reached by 20 kernels from -3 to 3, .* has 1\.0"):
        KAF(1, init=LimitedGrowth(growth=1.0001))
    with pytest.raises(ValueError, match=r"growth must be > 1 .* got 1;"):
        LimitedGrowth(growth=1)
    with pytest.raises(ValueError, match="an initialisation that is not 0 everywhere"):
        KAF(1, init=LimitedGrowth(Normal(std=0)))
    with pytest.raises(TypeError, match="init must be a KAFInit"):
        LimitedGrowth(F.elu)
