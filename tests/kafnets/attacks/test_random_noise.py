"""Noise: its distributions, and how weak it is as an attack."""

import pytest
import torch

from kafnets.attacks import L1, L2, PGD, Linf
from kafnets.attacks.random_noise import GaussianNoise, SphereNoise, UniformNoise
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

N, SIZE, EPS = 400, 30, 0.1
X, KEYS = torch.full((N, SIZE), 0.5, dtype=torch.float64), image_keys(torch.arange(N), 0)
Y = torch.zeros(N, dtype=torch.long)


def one_draw(attack):
    """The perturbation itself: images are far from 0 and 1."""
    return attack.craft(lambda x: x, X, Y, keys=KEYS) - X


def test_uniform_in_the_cube():
    delta = one_draw(UniformNoise(eps=EPS))
    assert delta.std().item() == pytest.approx(EPS / 3**0.5, rel=0.02)
    assert abs(delta.mean().item()) < 0.002
    assert delta.abs().max() <= EPS


def test_uniform_in_the_l2_ball():
    size = one_draw(UniformNoise(eps=EPS, norm=L2())).norm(dim=1)
    assert ((size / EPS) ** SIZE).mean().item() == pytest.approx(0.5, abs=0.05)
    assert size.max() <= EPS


def test_corners_of_the_cube():
    delta = one_draw(SphereNoise(eps=EPS))
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, EPS), rtol=1e-6, atol=0)
    assert (delta > 0).double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_l2_sphere():
    delta = one_draw(SphereNoise(eps=EPS, norm=L2()))
    torch.testing.assert_close(delta.norm(dim=1), torch.full((N,), EPS, dtype=X.dtype), rtol=1e-4, atol=0)
    assert delta.mean(0).abs().max() < 4 * EPS / (N * SIZE) ** 0.5


def test_uniform_in_the_l1_ball():
    delta = one_draw(UniformNoise(eps=EPS, norm=L1()))
    assert ((delta.abs().sum(1) / EPS) ** SIZE).mean().item() == pytest.approx(0.5, abs=0.05)
    assert delta.abs().mean().item() == pytest.approx(EPS / (SIZE + 1), rel=0.02)
    assert abs(delta.sign().mean().item()) < 0.03


def test_corners_of_the_l1_ball():
    delta = one_draw(SphereNoise(eps=EPS, norm=L1()))
    assert ((delta != 0).sum(1) == 1).all()
    torch.testing.assert_close(delta.abs().sum(1), torch.full((N,), EPS, dtype=X.dtype), rtol=1e-3, atol=0)
    assert (delta != 0).any(0).all()


def test_gaussian():
    delta = one_draw(GaussianNoise(eps=EPS, sigma=0.02))
    assert delta.std().item() == pytest.approx(0.02, rel=0.03)
    wide = one_draw(GaussianNoise(eps=EPS, sigma=1.0))
    assert wide.abs().max() <= EPS
    assert (wide.abs() > 0.99 * EPS).double().mean() > 0.9


@pytest.mark.parametrize("attack", [UniformNoise, SphereNoise, GaussianNoise])
@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_noise_is_weaker_than_an_attack(attack, norm):
    w = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def net(x):
        return torch.stack([(x - 0.5) @ w + 0.09 * EPS * SIZE, 0 * x[:, 0]], 1)

    eps = EPS if isinstance(norm, Linf) else EPS * SIZE**0.5
    noisy = is_correct(net(attack(eps=eps, norm=norm, restarts=3)(net, X, Y, keys=KEYS)), Y)
    assert noisy.double().mean() > 0.2
    assert not is_correct(net(PGD(eps=eps, norm=norm, step_size=eps / 2)(net, X, Y, keys=KEYS)), Y).any()
    more = is_correct(net(attack(eps=eps, norm=norm, restarts=10)(net, X, Y, keys=KEYS)), Y)
    assert not bool((more & ~noisy).any())


@pytest.mark.parametrize("attack", [UniformNoise, SphereNoise, GaussianNoise])
def test_keys_determine_the_draws(attack):
    draws = [attack().craft(lambda x: x, X, Y, keys=keys) for keys in (KEYS, KEYS, KEYS + 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_sigma():
    assert GaussianNoise(eps="8/255").sigma == 8 / 255
    assert GaussianNoise(sigma="4/255").sigma == 4 / 255
    for sigma in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"sigma must be > 0 and finite, got .*; the default is eps"):
            GaussianNoise(sigma=sigma)
