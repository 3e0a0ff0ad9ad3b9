import copy
import math

import pytest
import torch
import torch.nn.functional as F

from kafnets import functional
from kafnets.activations import KAF, KAFInit, Matern32, MultiKAF, Normal, Periodic, Ridge

pytestmark = pytest.mark.filterwarnings("ignore:Ridge")


def test_the_thesis_defaults():
    layer = KAF(4)
    assert layer.alpha.shape == (4, 20)
    assert layer.dictionary[[0, -1]].tolist() == [-3, 3]
    assert layer.bandwidth.item() == pytest.approx(1 / (6 * (6 / 19) ** 2))
    assert {n for n, _ in layer.named_parameters()} == {"alpha"}
    assert layer.grid is not None


def test_free_parameters_are_per_channel():
    layer = KAF(4, free=True)
    shapes = {n: tuple(p.shape) for n, p in layer.named_parameters()}
    assert shapes == {"alpha": (4, 20), "dictionary": (4, 20), "bandwidth": (4,)}
    layer(torch.randn(8, 4)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("num_dict", [2, 9, 20, 64])
def test_is_the_formula(free, num_dict):
    layer = KAF(3, num_dict=num_dict, boundary=4.0, bandwidth=0.9, free=free)
    x = 3 * torch.randn(5, 3, 6, 6)
    expected = functional.kaf(x, layer.alpha, layer.dictionary, layer.bandwidth)
    torch.testing.assert_close(layer(x), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("target", [F.elu, F.silu, torch.tanh])
def test_ridge_starts_as_the_target(target):
    layer = KAF(3, init=Ridge(target))
    points = layer.dictionary.unsqueeze(1).repeat(1, 3)
    assert (layer(points) - target(points)).abs().max() < 2e-3


def test_normal_has_its_standard_deviation():
    torch.manual_seed(0)
    assert KAF(200, init=Normal(std=0.3)).alpha.std().item() == pytest.approx(0.3, rel=0.05)


def test_a_custom_initialiser():
    class Ones(KAFInit):
        def __call__(self, dictionary, bandwidth, num_sets, kernel):
            return torch.ones(num_sets, len(dictionary))

    assert KAF(2, init=Ones()).alpha.sum() == 40


def test_fixed_and_free_layers_start_equal():
    torch.manual_seed(0)
    fixed = KAF(3)
    torch.manual_seed(0)
    free = KAF(3, free=True)
    x = torch.randn(20, 3)
    torch.testing.assert_close(fixed(x), free(x), atol=1e-6, rtol=1e-5)


def test_a_loaded_dictionary_is_used():
    source = KAF(2, boundary=2.0, bandwidth=0.5)
    layer = KAF(2)
    layer.load_state_dict(source.state_dict())
    x = torch.randn(10, 2)
    assert torch.equal(layer(x), source(x))
    uneven = source.state_dict() | {"dictionary": torch.linspace(-1, 1, 20) ** 3}
    layer.load_state_dict(uneven)
    assert layer.grid is None
    torch.testing.assert_close(
        layer(x), functional.kaf(x, layer.alpha, layer.dictionary, layer.bandwidth), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("layer", [KAF(2), KAF(2, kernel=Matern32()), MultiKAF(2)], ids=repr)
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dictionary", lambda d: d.flip(0), r"act\.dictionary must be finite and increasing, got \[3\.0, 2\.68"),
        ("dictionary", lambda d: d * math.nan, r"act\.dictionary must be finite"),
        ("bandwidth", torch.neg, r"act\.bandwidth must be > 0 and finite, got .*-"),
    ],
)
def test_an_invalid_stored_dictionary_is_refused(layer, name, change, message):
    net = torch.nn.ModuleDict({"act": layer})
    state = net.state_dict()
    state[f"act.{name}"] = change(state[f"act.{name}"])
    with pytest.raises(RuntimeError, match=message):
        copy.deepcopy(net).load_state_dict(state)


def test_ridge_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        layer = KAF(2, init=Ridge(F.elu))
    assert layer.alpha.is_meta and layer.fit is None


def test_copies_and_dtypes():
    layer = KAF(2)
    x = torch.randn(4, 2, 3, 3)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    torch.testing.assert_close(layer.double()(x.double()).float(), layer.float()(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_dict": 1}, "num_dict must be an integer >= 2, got 1"),
        ({"num_dict": 2.5}, "num_dict must be an integer >= 2, got 2.5"),
        ({"boundary": 0.0}, "boundary must be > 0 and finite, got 0.0"),
        ({"boundary": float("inf")}, "boundary must be > 0"),
        ({"boundary": "3"}, "boundary must be > 0 and finite, got '3'"),
        ({"bandwidth": -1.0}, "bandwidth must be > 0 and finite, got -1.0"),
        ({"bandwidth": float("nan")}, "bandwidth must be > 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        KAF(2, **settings)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: Normal(std=-1.0), ValueError),
        (lambda: Ridge(F.elu, eps=0.0), ValueError),
        (lambda: Ridge("elu"), TypeError),
        (lambda: KAF(2, init=F.elu), TypeError),
        (lambda: KAF(2, init=Ridge), TypeError),
        (lambda: MultiKAF(2, init="normal"), TypeError),
        (lambda: MultiKAF(2, kernels=Matern32()), TypeError),
    ],
)
def test_bad_initialisers_are_refused(build, kind):
    with pytest.raises(kind, match="must be"):
        build()


def test_repr_names_the_settings():
    assert repr(KAF(4)) == "KAF(4, kernel=Gaussian(), num_dict=20, init=Normal(std=0.05), free=False)"
    assert repr(KAF(4, kernel=Periodic(4.0), groups=1)) == (
        "KAF(4, kernel=Periodic(period=4), num_dict=20, init=Normal(std=0.05), free=False, groups=1)"
    )


def test_labels():
    layers = [
        KAF(4),
        KAF(4, free=True),
        KAF(4, init=Ridge(F.elu)),
        KAF(4, kernel=Matern32()),
        KAF(4, kernel=Periodic(4.0), init=Ridge(F.silu), free=True, groups=2),
    ]
    assert [layer.label for layer in layers] == [
        "KAF",
        "KAF_Free",
        "KAF_elu",
        "KAF_Matern32",
        "KAF_Periodic4_silu_Free_Groups2",
    ]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [None, Matern32()], ids=repr)
def test_neighbouring_channels_share_a_set(kernel, groups, free):
    torch.manual_seed(0)
    layer = KAF(6, kernel=kernel, free=free, groups=groups)
    shapes = {n: tuple(p.shape) for n, p in layer.named_parameters()}
    own = {"dictionary": (groups, 20), "bandwidth": (groups,)} if free else {}
    assert shapes == {"alpha": (groups, 20)} | own
    if free:
        torch.nn.init.uniform_(layer.bandwidth, 0.5, 2.0)
    alone = KAF(6, kernel=kernel, free=free)
    state = layer.state_dict()
    repeated = {n: state[n].repeat_interleave(6 // groups, 0) for n in shapes}
    alone.load_state_dict(state | repeated)
    x = torch.randn(5, 6, 3, 3)
    assert torch.equal(layer(x), alone(x))
    layer(x).square().sum().backward()
    alone(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        each = alone.get_parameter(name).grad
        expected = each.view(groups, 6 // groups, *each.shape[1:]).sum(1)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [0, -1, 4, 7, 2.0, "layer"])
def test_groups_must_divide_the_channels(groups):
    with pytest.raises(ValueError, match=rf"groups.* must divide num_channels=6, got {groups!r}; leave it None"):
        KAF(6, groups=groups)
