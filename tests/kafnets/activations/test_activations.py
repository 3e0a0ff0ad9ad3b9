import pytest
import torch
import torch.nn.functional as F

from kafnets import activations as act

PEERS = [act.SReLU, act.APL, act.PSoftplus, act.PSSiLU, act.Rational, act.Spline, act.LipschitzSpline, act.Maxout]
FIXED = [act.ReLU, act.LeakyReLU, act.PReLU, act.ELU, act.GELU, act.SiLU, act.Softplus]
EVERY = [*FIXED, *PEERS, act.KWTA, act.KAF]


@pytest.fixture(params=EVERY, ids=lambda c: c.__name__)
def activation(request):
    return request.param


@pytest.fixture(params=[c for c in PEERS if c is not act.Maxout], ids=lambda c: c.__name__)
def peer(request):
    return request.param


def moved(layer):
    """The layer with every parameter moved away from its initial value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return layer


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (2, 3, 4, 4), (0, 3, 4, 4), (0, 3, 7)])
def test_shape_dtype_and_no_write_to_the_input(activation, shape):
    x = torch.randn(shape)
    before = x.clone()
    y = activation(3)(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert torch.equal(x, before)


def test_built_on_the_meta_device(activation):
    with torch.device("meta"):
        layer = activation(3)
    assert all(tensor.is_meta for tensor in [*layer.parameters(), *layer.buffers()])
    trained, x = moved(activation(3)), torch.randn(5, 3, 4)
    layer.to_empty(device="cpu").load_state_dict(trained.state_dict())
    assert torch.equal(layer(x), trained(x))


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


def test_memory_layout_is_kept(activation):
    x = torch.randn(2, 3, 4, 5)
    layer = moved(activation(3))
    last = layer(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous()
    torch.testing.assert_close(last, layer(x))
    torch.testing.assert_close(layer(x.mT.contiguous().mT), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out(activation, dtype):
    layer, x = moved(activation(3)), torch.randn(4, 3, 5, 5).to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x.float()), atol=0.03, rtol=0.02)
    y.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize("peer_name", [c.__name__ for c in PEERS])
def test_derivatives_of_first_and_second_order(peer_name):
    layer = moved(getattr(act, peer_name)(2)).double()
    x = (1.5 * torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).requires_grad_()
    names, parameters = zip(*((n, p.detach().requires_grad_()) for n, p in layer.named_parameters()), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters))
    assert torch.autograd.gradgradcheck(run, (x, *parameters), fast_mode=True)


def test_nan_stays_where_it_is(peer):
    x = torch.randn(3, 4, 5)
    x[1, 2, 3] = torch.nan
    y = moved(peer(4))(x)
    assert y[1, 2, 3].isnan() and y.isnan().sum() == 1


def test_infinite_inputs_behave_like_large_ones(peer):
    layer = moved(peer(1)).double()
    ends, far = (layer(torch.tensor([[-v], [v]], dtype=torch.float64)) for v in (torch.inf, 1e25))
    assert not ends.isnan().any()
    assert torch.equal(ends.sign(), far.sign())
    assert (ends.abs() >= far.abs()).all()


@pytest.mark.parametrize("size", [1e-30, 1e4, 1e9, 3e38])
def test_finite_values_have_finite_gradients(peer, size):
    layer = moved(peer(2))
    x = torch.tensor([[size, -size]], requires_grad=True)
    (layer(x) / max(size, 1)).sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


def test_backward_keeps_the_input_and_small_tensors_only(peer):
    kept = []
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        peer(3)(x)
    large = {t.untyped_storage().data_ptr() for t in kept if t.numel() >= x.numel()}
    assert large == {x.untyped_storage().data_ptr()}


@pytest.mark.parametrize("peer_name", [c.__name__ for c in PEERS])
def test_compiled_in_one_graph(peer_name):
    torch.compiler.reset()
    layer, x = moved(getattr(act, peer_name)(3)), torch.randn(4, 3, 5, 5, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), layer(x)
    torch.testing.assert_close(y, expected)
    wanted = (x, *layer.parameters())
    grads = torch.autograd.grad(y.square().sum(), wanted)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), wanted))


@pytest.mark.parametrize("peer_name", [c.__name__ for c in PEERS])
def test_autocast_keeps_the_dtype(peer_name):
    layer, x = getattr(act, peer_name)(3), torch.randn(4, 3, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32


def test_num_parameters():
    assert act.ReLU(5).num_parameters == 0
    assert act.SReLU(5).num_parameters == 20
    assert act.Rational(5).num_parameters == 10
    assert act.KAF(5).num_parameters == 100
    layer = act.PReLU(5)
    layer.weight.requires_grad_(False)
    assert layer.num_parameters == 0
