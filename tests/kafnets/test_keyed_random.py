"""Random numbers depend on the key alone, and have the distributions that they should have."""

import pytest
import torch

from kafnets.keyed_random import image_keys, normal, uniform

SHAPE = (3, 16, 16)


def splitmix64(state):
    """The reference implementation in Python's integers: (next state, output)."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return state, z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 1, 1234567, 2**63 - 1, -1, -(2**63)])
def test_uniform_is_splitmix64(seed):
    state, expected = seed % 2**64, []
    for _ in range(10):
        state, output = splitmix64(state)
        expected.append((output >> 40) * 2.0**-24)
    assert uniform(torch.tensor([seed]), (10,))[0].tolist() == expected


def test_reference_values_of_splitmix64():
    assert splitmix64(1234567)[1] == 6457827717110365317  # published with the algorithm
    assert image_keys(torch.tensor([1234567])).item() == 6457827717110365317


@pytest.mark.parametrize("draw", [uniform, normal])
def test_same_key_same_noise_in_any_batch(draw):
    keys = image_keys(torch.arange(50), 7, 1)
    whole = draw(keys, SHAPE)
    assert torch.equal(torch.cat([draw(part, SHAPE) for part in keys.split(7)]), whole)
    order = torch.randperm(50)
    assert torch.equal(draw(keys[order], SHAPE), whole[order])
    assert torch.equal(draw(keys, SHAPE), whole)


def test_uniform_is_uniform_on_the_half_open_interval():
    u = uniform(image_keys(torch.arange(1000), 0), SHAPE).flatten().double()
    n = len(u)
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert u.mean().item() == pytest.approx(1 / 2, abs=5 * (1 / 12 / n) ** 0.5)
    assert u.var().item() == pytest.approx(1 / 12, abs=5 * (1 / 180 / n) ** 0.5)
    # Kolmogorov and Smirnov's distance; 1.95 / sqrt(n) is exceeded once in a thousand
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert (u.sort().values - steps).abs().max().item() < 1.95 / n**0.5


def test_normal_has_the_moments_of_a_normal():
    z = normal(image_keys(torch.arange(1000), 0), SHAPE).flatten().double()
    n = len(z)
    assert torch.isfinite(z).all()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (z**power).mean().item() == pytest.approx(moment, abs=5 * (variance / n) ** 0.5)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    cdf = torch.special.ndtr(z.sort().values)
    assert (cdf - steps).abs().max().item() < 1.95 / n**0.5


@pytest.mark.parametrize(
    "other",
    [
        lambda index: image_keys(index, 0, 1),  # another restart
        lambda index: image_keys(index, 1, 0),  # the order of the salts matters
        lambda index: image_keys(index + 1, 0, 0),  # the neighbouring image
        lambda index: image_keys(index, 0),
        lambda index: image_keys(index, 0, -1),
    ],
)
def test_other_keys_give_independent_noise(other):
    index = torch.arange(500)
    a, b = (uniform(keys, SHAPE).flatten() for keys in (image_keys(index, 0, 0), other(index)))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 5 / len(a) ** 0.5
    assert (a == b).float().mean() < 1e-5


def test_neighbouring_pixels_and_images_are_independent():
    u = uniform(image_keys(torch.arange(500), 0), (1000,)) - 0.5
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1]), (u[:, 2:], u[:, :-2])):
        assert abs((a * b).mean().item() * 12) < 5 / a.numel() ** 0.5


def test_keys_do_not_collide():
    keys = torch.cat([image_keys(torch.arange(50_000), seed, epoch) for seed in range(2) for epoch in range(3)])
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == len(keys)


def test_shapes():
    keys = image_keys(torch.arange(6).reshape(2, 3), 1)
    assert keys.shape == (2, 3)
    assert uniform(keys.flatten(), ()).shape == (6,)
    assert uniform(keys.flatten()[:0], SHAPE).shape == (0, *SHAPE)
    assert normal(keys.flatten(), (4,)).shape == (6, 4)
    assert uniform(keys.flatten(), SHAPE).dtype == torch.float32
