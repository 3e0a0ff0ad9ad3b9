"""The Square attack: its squares, its schedule, and optima that can be proved."""

import itertools

import pytest
import torch

from kafnets.attacks import L1, L2, Linf, Norm, Square
from kafnets.attacks.square import share_of_the_image
from kafnets.attacks.square_perturbations import LinfSquares, Pyramids, _half_pyramid, _odd_side, _pyramids, squares_of
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import margin

KEYS = image_keys(torch.arange(200), 0)
X = 0.3 + 0.4 * torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def by_the_table(query):
    """The schedule as the authors write it down."""
    for at, share in ((10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128)):
        if query <= at:
            return 0.8 / share
    return 0.8 / (256 if query <= 8000 else 512)


def test_the_schedule():
    assert all(share_of_the_image(0.8, query) == by_the_table(query) for query in range(10_000))


def test_linf_starts_are_stripes_at_the_boundary():
    delta = LinfSquares().start(X, 0.1, KEYS) - X
    torch.testing.assert_close(delta.abs(), torch.full_like(X, 0.1))
    assert torch.equal(delta[:, :, :1].sign().expand_as(delta), delta.sign())
    assert abs(delta.mean().item()) < 0.005


@pytest.mark.parametrize("share", [0.8, 0.1, 0.01, 1e-9])
def test_linf_changes_are_squares_of_one_colour(share):
    side = max(round((share * 32 * 32) ** 0.5), 1)
    best = LinfSquares().start(X, 0.1, KEYS)
    tried = LinfSquares().change(X, best, 0.1, share, image_keys(KEYS, 7))
    blank = LinfSquares().change(X, X, 0.1, share, image_keys(KEYS, 7)) - X
    inside = blank.abs().amax(1) > 0
    assert torch.equal((tried != best).any(1) & ~inside, torch.zeros_like(inside))
    for mask, delta in zip(inside, blank, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert len(rows) == len(columns) == side
        assert mask.sum() == side * side
        assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1
        for channel in delta:
            torch.testing.assert_close(channel[mask].abs(), torch.full((side * side,), 0.1))
            assert len(channel[mask].sign().unique()) == 1


def test_squares_lie_anywhere_including_the_edges():
    inside = (LinfSquares().change(X, X, 0.1, 0.25, KEYS) - X).abs().amax(1) > 0
    first = inside.any(2).int().argmax(1)  # the first row of each
    assert first.min() == 0
    assert first.max() == 16
    assert first.double().mean().item() == pytest.approx(8, abs=5 * (24 / 200) ** 0.5)


every_power = pytest.mark.parametrize("power", [1, 2])


def pyramid_in_loops(height, width, power):
    """Rectangles that grow by one on each side; number m adds 1 / (m + 1)^2."""
    pyramid = torch.zeros(height, width, dtype=torch.float64)
    for m in range(max(height // 2, width // 2) + 1):
        top, left = max(height // 2 - m, 0), max(width // 2 - m, 0)
        pyramid[top : height // 2 + m + 1, left : width // 2 + m + 1] += 1 / (m + 1) ** 2
    return pyramid / pyramid.norm(p=power)


@every_power
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (2, 3), (3, 7), (4, 7), (14, 29)])
def test_pyramids(height, width, power):
    torch.testing.assert_close(_half_pyramid(height, width, power), pyramid_in_loops(height, width, power))


@every_power
@pytest.mark.parametrize("side", [1, 3, 7])
def test_a_square_has_a_positive_and_a_negative_pyramid_in_both_orientations(side, power):
    upright, lying = _pyramids(side, torch.tensor([0.1, 0.9]), torch.float64, power)
    assert torch.equal(upright.T, lying)
    assert upright.norm(p=power).item() == pytest.approx(1)
    assert bool((upright[: side // 2] > 0).all())
    assert bool((upright[side // 2 :] < 0).all())


@pytest.mark.parametrize(
    ("share", "size", "expected"),
    [(0.8, 32, 29), (0.4, 32, 21), (1e-9, 32, 3), (1.0, 32, 31), (1.0, 3, 3), (1.0, 1, 1)],
)
def test_sides_are_odd_and_fit(share, size, expected):
    assert _odd_side(share, size, size) == expected


@every_power
def test_starts_are_tiles_of_norm_eps(power):
    delta = Pyramids(power=power).start(X, 0.5, KEYS) - X
    torch.testing.assert_close(delta.flatten(1).norm(p=power, dim=1), torch.full((200,), 0.5), rtol=1e-4, atol=0)
    assert not delta[:, :, 0].any()  # 32 = 1 + 5 tiles of 6 + 1
    assert not delta[:, :, :, 31].any()
    assert bool((delta[:, :, 1:31, 1:31] != 0).all())
    tile = delta[0, 0, 1:7, 1:7]
    assert (tile > 0).sum() == (tile < 0).sum() == 18


@every_power
@pytest.mark.parametrize("eps", [0.5, 12.0])
def test_changes_move_the_norm_into_one_window(power, eps):
    x = X.double()
    best = Pyramids(power=power).start(x, eps, KEYS)
    for number in range(5):
        tried = Pyramids(power=power).change(x, best, eps, 0.05, image_keys(KEYS, number))
        torch.testing.assert_close((tried - x).flatten(1).norm(p=power, dim=1), torch.full((200,), eps).double())
        side = _odd_side(0.05, 32, 32)
        changed = ((tried - best).abs().amax(1) > 1e-8).sum((1, 2))
        assert bool((changed <= 2 * side**2).all())
        assert bool((changed >= side**2 - side).all())
        best = tried


@every_power
def test_norm_that_clipping_removed_goes_to_the_next_window(power):
    x = X.double()
    best = x + 0.5 * (Pyramids(power=power).start(x, 0.5, KEYS) - x)
    tried = Pyramids(power=power).change(x, best, 0.5, 0.05, KEYS)
    torch.testing.assert_close((tried - x).flatten(1).norm(p=power, dim=1), torch.full((200,), 0.5).double())
    side = _odd_side(0.05, 32, 32)
    grown = ((tried - x).abs() > (best - x).abs() + 1e-9).any(1).sum((1, 2))
    assert bool((grown <= side**2).all())  # the rest of the image does not grow


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 1, 5), (2, 1, 1), (1, 40, 3)])
def test_images_of_any_shape(norm, shape):
    x = torch.rand(20, *shape)
    weight = torch.randn(x[0].numel(), 4, generator=torch.Generator().manual_seed(1))
    y = (x.flatten(1) @ weight).argmax(1)
    eps = 6.0 if isinstance(norm, L1) else 0.3
    found = Square(eps=eps, queries=30, norm=norm)(lambda x: x.flatten(1) @ weight, x, y, keys=KEYS[:20])
    assert norm.size(found - x).max() <= eps
    assert not is_correct(found.flatten(1) @ weight, y).all()


def test_on_a_brightness_threshold_the_linf_optimum_is_found():
    def net(x):  # wrong above a mean of 0.5 + 0.099: out of 0.1, the best is every pixel up
        return torch.stack([0.599 - x.mean((1, 2, 3)), 0 * x[:, 0, 0, 0]], 1)

    x, y = torch.full((40, 3, 8, 8), 0.5), torch.zeros(40, dtype=torch.long)
    robust = is_correct(net(Square(eps=0.1, queries=3000)(net, x, y, keys=KEYS[:40])), y)
    assert robust.sum() == 0
    robust = is_correct(net(Square(eps=0.098, queries=300)(net, x, y, keys=KEYS[:40])), y)
    assert robust.all()


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_more_queries_lose_no_error_and_the_loss_only_rises(norm):
    weight = torch.randn(3 * 8 * 8, 4, generator=torch.Generator().manual_seed(1)) / 14
    x = 0.3 + 0.4 * torch.rand(150, 3, 8, 8)

    def net(x):
        return (x - 0.5).flatten(1) @ weight

    y, attack = net(x).argmax(1), {"eps": {"Linf": 0.03, "L2": 0.3, "L1": 3.0}[type(norm).__name__], "norm": norm}
    robust = [is_correct(net(Square(queries=q, **attack)(net, x, y, keys=KEYS[:150])), y) for q in (1, 20, 200)]
    for fewer, more in itertools.pairwise(robust):
        assert not bool((more & ~fewer).any())
        assert more.sum() < fewer.sum()
    losses = [margin(net(Square(queries=q, **attack).craft(net, x, y, keys=KEYS[:150])), y) for q in (1, 5, 25)]
    for fewer, more in itertools.pairwise(losses):
        assert bool((more >= fewer - 1e-6).all())
        assert more.mean() > fewer.mean()


def test_only_outputs_are_used_and_no_gradient():
    calls = []

    def net(x):
        calls.append(torch.is_grad_enabled())
        return torch.stack([1 + 0 * x[:, 0], x[:, 0]], 1).flatten(1)[:, :2]

    Square(queries=5)(net, torch.rand(3, 4), torch.zeros(3, dtype=torch.long))
    assert len(calls) == 1 + 1 + 5 + 1  # the image, the start, the queries, the result
    assert not any(calls)


def test_squares_of_each_norm():
    assert isinstance(squares_of(Linf()), LinfSquares)
    assert (squares_of(L2()).power, squares_of(L1()).power) == (2, 1)


def test_another_norm_is_refused():
    class Ball(Norm):
        size = project = direction = random_start = None

        def check_eps(self, eps):
            pass

    with pytest.raises(ValueError, match=r"defined for Linf, L2 and L1, got Ball\(\)"):
        Square(norm=Ball())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "queries must be >= 1, got 0"),
        ({"p_init": 0}, r"p_init must lie in \(0, 1\], got 0"),
        ({"p_init": 1.5}, r"p_init must lie in \(0, 1\], got 1.5"),
        ({"eps": 8}, "for 8 grey levels write 8/255"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Square(**settings)
