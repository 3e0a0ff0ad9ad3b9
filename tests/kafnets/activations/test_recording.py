"""Checks that every activation can be recorded as a graph of PyTorch's own operators."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kafnets import ops

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


def operators(graph):
    """The namespaces of the operators in a graph."""
    return {node.target.namespace for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


def test_jit_trace(layer, x):
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x[:2]), layer(x[:2]))
    assert "kafnets::" not in str(traced.inlined_graph) and "PythonOp" not in str(traced.inlined_graph)
    with torch.no_grad():
        for parameter in traced.parameters():  # none may have become a constant
            parameter *= 1.25
    torch.testing.assert_close(traced(x), layer(x))


def test_make_fx(layer, x):
    graph = make_fx(layer)(x)
    assert operators(graph.graph) <= {"aten"}
    torch.testing.assert_close(graph(x.flip(0)), layer(x.flip(0)))


def test_fake_tensors(layer, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = layer(mode.from_tensor(x))
    assert y.shape == x.shape and y.dtype == x.dtype


def test_the_reference_engine(layer, x):
    x.requires_grad_()
    results = []
    for name in ("eager", "reference"):
        with ops.force(name):
            y = layer(x)
            inputs = [x, *layer.parameters()]
            first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
            second = torch.autograd.grad(first[0].square().sum(), inputs, materialize_grads=True)
            results.append((y, first, second))
    torch.testing.assert_close(*results)


def test_the_environment_chooses_the_reference(layer, x, monkeypatch):
    monkeypatch.setenv("KAFNETS_ENGINE", "reference")
    assert ops.engine_for(x.device) == "reference"
    nodes, pending = set(), [layer(x.requires_grad_()).sum().grad_fn]
    while pending:
        node = pending.pop()
        nodes.add(type(node).__module__)
        pending += [parent for parent, _ in node.next_functions if parent is not None]
    assert not any(name.startswith("kafnets") for name in nodes)  # no autograd.Function of this project
