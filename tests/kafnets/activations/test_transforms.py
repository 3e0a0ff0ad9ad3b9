"""Checks that every activation works in the transforms of torch.func and in forward-mode differentiation."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

from kafnets import activations as act
from kafnets.backbones import KafVGG


def gradient(layer, x, v):
    """The gradient of ``sum(v * layer(x))`` by the engine of the device, for the input and the parameters."""
    inputs = {"x": x.clone().requires_grad_(), **dict(layer.named_parameters())}
    (v * layer(inputs["x"])).sum().backward(inputs=list(inputs.values()))
    found = {name: t.grad for name, t in inputs.items()}
    layer.zero_grad()
    return found


def test_vmap_over_a_further_batch(layer, x):
    many = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(vmap(layer)(many), torch.stack([layer(one) for one in many]))


def test_grad_of_a_scalar(layer, x):
    v = torch.randn_like(x)
    found = grad(lambda x: (v * layer(x)).sum())(x)
    torch.testing.assert_close(found, gradient(layer, x, v)["x"])


def test_jvp(layer, x):
    v, direction = torch.randn_like(x), torch.randn_like(x)
    value, slope = jvp(layer, (x,), (direction,))
    torch.testing.assert_close(value, layer(x))
    torch.testing.assert_close((v * slope).sum(), (direction * gradient(layer, x, v)["x"]).sum())


def test_forward_mode_differentiation(layer, x):
    v, direction = torch.randn_like(x), torch.randn_like(x)
    with forward_ad.dual_level():
        value, slope = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(value, layer(x))
    torch.testing.assert_close((v * slope).sum(), (direction * gradient(layer, x, v)["x"]).sum())


def test_jacrev(layer, x):
    x = x[:2, :, :2]
    jacobian = jacrev(layer)(x)
    rows = [gradient(layer, x, row.view(x.shape))["x"].flatten() for row in torch.eye(x.numel()).double()]
    torch.testing.assert_close(jacobian.reshape(x.numel(), x.numel()), torch.stack(rows))


@pytest.mark.parametrize("create_graph", [False, True])
def test_vmap_over_a_backward_pass(layer, x, create_graph):
    x = x[:2, :, :2].clone().requires_grad_()
    y = layer(x)

    def backward(v):
        return torch.autograd.grad(y, x, v, create_graph=create_graph, retain_graph=True)[0]

    found, expected = vmap(backward)(torch.eye(x.numel()).double().view(-1, *x.shape)), jacrev(layer)(x)
    torch.testing.assert_close(found.flatten(), expected.flatten())
    if create_graph and expected.requires_grad:
        again = torch.autograd.grad(found.square().sum(), x, materialize_grads=True)
        torch.testing.assert_close(again, torch.autograd.grad(expected.square().sum(), x, materialize_grads=True))


def test_infinity_and_nan(layer, x):
    x[0, 0, :4] = torch.tensor([torch.inf, -torch.inf, 1e20, torch.nan])
    expected = layer(x)
    torch.testing.assert_close(vmap(layer)(x[None])[0], expected, equal_nan=True)
    v = expected.detach().isfinite().double()
    found = grad(lambda x: torch.where(v > 0, layer(x), 0).sum())(x)
    torch.testing.assert_close(found, gradient(layer, x, v)["x"], equal_nan=True)


def test_gradients_per_sample(layer, x):
    parameters, v = dict(layer.named_parameters()), torch.randn_like(x)

    def value(parameters, x, v):
        return (v * functional_call(layer, parameters, (x[None],))).sum()

    found = vmap(grad(value), in_dims=(None, 0, 0))(parameters, x, v)
    for i in range(len(x)):
        expected = gradient(layer, x[i : i + 1], v[i : i + 1])
        for name in parameters:
            torch.testing.assert_close(found[name][i], expected[name])


def test_ensemble(layer, x):
    layers = [copy.deepcopy(layer) for _ in range(3)]
    with torch.no_grad():
        for i, one in enumerate(layers):
            for parameter in one.parameters():
                parameter *= 1 + i / 10
    many = torch.stack([x, x / 2, -x])
    found = vmap(lambda state, x: functional_call(layer, state, (x,)))(stack_module_state(layers), many)
    torch.testing.assert_close(found, torch.stack([one(x) for one, x in zip(layers, many, strict=True)]))


def test_gradients_per_sample_of_a_network():
    net, images, labels = KafVGG(image_size=8, width=4, hidden=8).eval(), torch.rand(3, 3, 8, 8), torch.arange(3)

    def loss(parameters, image, label):
        return F.cross_entropy(functional_call(net, parameters, (image[None],)), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(dict(net.named_parameters()), images, labels)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        net.zero_grad()
        F.cross_entropy(net(image[None]), label[None]).backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("free", [False, True])
def test_ensemble_of_networks(free):
    build = functools.partial(act.KAF, free=free)
    nets = [KafVGG(image_size=8, width=4, hidden=8, activation=build).eval() for _ in range(3)]
    skeleton, images = copy.deepcopy(nets[0]).to("meta"), torch.rand(2, 3, 8, 8)
    found = vmap(lambda state: functional_call(skeleton, state, (images,)))(stack_module_state(nets))
    torch.testing.assert_close(found, torch.stack([net(images) for net in nets]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [act.KAF, act.KWTA])
def test_transforms_in_torch_compile(build):
    torch.compiler.reset()
    layer, x = build(4), torch.randn(2, 3, 4)
    function = vmap(grad(lambda x: layer(x).square().sum()))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x))
