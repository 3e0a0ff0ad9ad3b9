import pytest
import torch

from kafnets.ops import recompute
from kafnets.ops.recompute import lean


def wave(x, a, b):
    return a * torch.sin(b * x) + x * torch.exp(-a * x * x)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(recompute, "CPU_CHUNK", 50)


def arguments():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    a, b = (torch.rand(3, 1, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    return x, a, b


def test_values_and_gradients_equal_autograd(small_pieces):
    inputs = arguments()
    ours, plain = lean(wave, *inputs), wave(*inputs)
    torch.testing.assert_close(ours, plain)
    weight = torch.randn_like(ours)
    found = torch.autograd.grad(ours, inputs, weight)
    torch.testing.assert_close(found, torch.autograd.grad(plain, inputs, weight))


def test_derivatives_of_three_orders(small_pieces):
    inputs = arguments()
    results = []
    for y in (lean(wave, *inputs), wave(*inputs)):
        for _ in range(3):
            y = sum(g.square().sum() for g in torch.autograd.grad(y.sum(), inputs, create_graph=True))
        results.append(torch.autograd.grad(y, inputs))
    torch.testing.assert_close(*results)


def test_gradcheck(small_pieces):
    assert torch.autograd.gradcheck(lambda *t: lean(wave, *t), arguments())
    assert torch.autograd.gradgradcheck(lambda *t: lean(wave, *t), arguments())


def test_an_attack_computes_gradients_of_its_images_only(small_pieces):
    trained = []

    def spy(x, a, b):
        trained.append(a.requires_grad or b.requires_grad)
        return wave(x, a, b)

    x, a, b = arguments()
    y = lean(spy, x, a, b)
    trained.clear()
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert trained and not any(trained)
    trained.clear()
    y.sum().backward()
    assert all(trained) and a.grad is not None


def test_a_parameter_without_influence_has_a_zero_gradient():
    x, a, _ = arguments()
    lean(lambda x, a: x * 2, x, a).sum().backward()
    assert a.grad.tolist() == torch.zeros_like(a).tolist()


@pytest.mark.parametrize("create_graph", [True, False])
def test_frozen_inputs_get_no_gradient(create_graph):
    x, a, b = arguments()
    (found,) = torch.autograd.grad(lean(wave, x.detach(), a, b.detach()).sum(), a, create_graph=create_graph)
    (expected,) = torch.autograd.grad(wave(x, a, b).sum(), a)
    torch.testing.assert_close(found, expected)


def test_empty_and_expanded_inputs():
    a, b = torch.ones(3, 1), torch.ones(3, 1)
    assert lean(wave, torch.zeros(0, 3, 4), a, b).shape == (0, 3, 4)
    x = torch.randn(1, 3, 4).expand(5, 3, 4)
    torch.testing.assert_close(lean(wave, x, a, b), wave(x, a, b))


def test_an_expanded_cotangent():
    x, a, b = arguments()
    lean(wave, x, a, b).sum().backward()
    (expected,) = torch.autograd.grad(wave(x, a, b).sum(), x)
    torch.testing.assert_close(x.grad, expected)
