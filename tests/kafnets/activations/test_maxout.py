import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import Maxout


def moved(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (2, 6, 3, 4), (2, 6, 2, 3, 2)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_is_the_largest_of_the_maps(shape, groups):
    layer, x = moved(Maxout(6, pieces=3, groups=groups)), torch.randn(shape)
    width = 6 // groups
    maps = []
    for weight, bias in zip(layer.weight, layer.bias, strict=True):
        whole = torch.block_diag(*(weight[g * width : (g + 1) * width] for g in range(groups)))
        maps.append(torch.einsum("oc,nc...->no...", whole, x) + bias.view(-1, *[1] * (x.dim() - 2)))
    torch.testing.assert_close(layer(x), torch.stack(maps).amax(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_two_pieces_start_as_relu(groups):
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(Maxout(3, groups=groups)(x), F.relu(x))


def test_more_pieces_start_as_tangents_of_softplus():
    x = torch.linspace(-4, 4, 400)[:, None]
    gaps = [(F.softplus(x) - Maxout(1, pieces=k)(x)).detach() for k in (3, 5, 65)]
    assert all(gap.min() > -1e-6 for gap in gaps)
    assert gaps[0].max() > gaps[1].max() > gaps[2].max() and gaps[2].max() < 0.01


def test_every_piece_is_in_use_from_the_start():
    layer = Maxout(2, pieces=6, groups=2)
    layer(torch.linspace(-4, 4, 1000)[:, None].repeat(1, 2)).sum().backward()
    assert (layer.bias.grad > 0).all()


def test_groups_do_not_depend_on_each_other():
    layer, x = moved(Maxout(6, groups=3)), torch.randn(4, 6)
    changed = x.clone()
    changed[:, 2:4] += 1
    different = (layer(x) != layer(changed)).any(0)
    assert different.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pieces": 1}, "pieces must be an integer >= 2, got 1; the default is 2"),
        ({"groups": 4}, "groups must divide num_channels=6, got 4; the default is 1"),
        ({"groups": 0}, "groups must be an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Maxout(6, **settings)


def test_repr_names_the_settings():
    assert repr(Maxout(6, groups=2)) == "Maxout(6, pieces=2, groups=2)"
