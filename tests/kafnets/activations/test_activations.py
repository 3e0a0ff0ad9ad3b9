import pytest
import torch
import torch.nn.functional as F

from kafnets import activations as act

EVERY = [act.ReLU, act.LeakyReLU, act.PReLU, act.ELU, act.GELU, act.SiLU, act.Softplus, act.KWTA, act.KAF]


@pytest.fixture(params=EVERY, ids=lambda c: c.__name__)
def activation(request):
    return request.param


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (2, 3, 4, 4), (0, 3, 4, 4)])
def test_shape_dtype_and_no_write_to_the_input(activation, shape):
    x = torch.randn(shape)
    before = x.clone()
    y = activation(3)(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4)])
def test_gradients_and_second_derivatives_exist(activation, shape):
    layer = activation(3)
    x = torch.randn(shape, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_bad_inputs_are_named(activation):
    layer = activation(3)
    with pytest.raises(ValueError, match=r"got 4 channels in shape \(2, 4, 5, 5\); build it with num_channels=4"):
        layer(torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match=r"takes \(N, C\)"):
        layer(torch.zeros(3))
    with pytest.raises(TypeError, match=r"floating point tensor, got torch\.int64"):
        layer(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="num_channels must be an integer >= 1, got 0"):
        activation(0)


def test_settings_are_keyword_only(activation):
    with pytest.raises(TypeError):
        activation(3, 0.1)


def test_repr_begins_with_the_channels(activation):
    assert repr(activation(3)).startswith(f"{activation.__name__}(3")


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (act.ReLU(3), F.relu),
        (act.LeakyReLU(3, negative_slope=0.3), lambda x: F.leaky_relu(x, 0.3)),
        (act.PReLU(3), lambda x: F.leaky_relu(x, 0.25)),
        (act.ELU(3, alpha=2.0), lambda x: F.elu(x, 2.0)),
        (act.GELU(3), F.gelu),
        (act.Swish(3), F.silu),
        (act.Softplus(3, beta=2.0), lambda x: F.softplus(x, 2.0)),
    ],
    ids=lambda v: getattr(v, "__name__", None) or repr(v),
)
def test_pointwise_values(layer, expected):
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(layer(x), expected(x))


def test_prelu_has_a_slope_per_channel():
    layer = act.PReLU(3, init=0.1)
    layer(-torch.ones(2, 3)).sum().backward()
    assert layer.weight.grad.tolist() == [-2, -2, -2]


@pytest.mark.parametrize(
    ("build", "word"), [(lambda: act.ELU(1, alpha=0.0), "alpha"), (lambda: act.Softplus(1, beta=-1.0), "beta")]
)
def test_pointwise_settings_are_checked(build, word):
    with pytest.raises(ValueError, match=f"{word} must be > 0"):
        build()
