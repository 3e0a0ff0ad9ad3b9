"""``Fused`` in place of a network: changes, hooks, copies, threads, and when the network itself answers."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from kafnets import ops
from kafnets.attacks import PGD
from kafnets.attacks.bpda import replaced_backward
from kafnets.fused import Fused
from kafnets.fused.chain import ConvChain
from kafnets.fused.network import _FusedForm
from kafnets.ops import dispatch

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)


def test_parameters_modules_and_attributes_are_those_of_the_network(net, images, logits_and_gradient):
    fused = Fused(net)
    assert [*fused.parameters()] == [*net.parameters()] and {*net.modules()} < {*fused.modules()}
    assert (fused.depth, fused.label, fused.training) == (8, net.label, False)
    with pytest.raises(AttributeError, match="breadth"):
        _ = fused.breadth
    fused(images)
    before = copy.deepcopy(net.state_dict())
    logits_and_gradient(fused, images)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {f"net.{name}" for name in net.state_dict()} == set(fused.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fused: pickle.loads(pickle.dumps(fused))])
def test_copies_hold_a_copy_of_the_network(copied, net, images):
    fused = Fused(net)
    before = fused(images)
    other = copied(fused)
    with torch.no_grad():
        net.fc.bias += 1
    torch.testing.assert_close(other(images), before, rtol=0, atol=1e-5)
    assert other.net is not net


CHANGES = {
    "a step of an optimizer": lambda net: torch.optim.SGD(net.parameters(), lr=1.0).step(),
    "a step that counts no version": lambda net: torch.optim.SGD(net.parameters(), lr=1.0, fused=True).step(),
    "a write through data": lambda net: net.block1_1.conv_a.weight.data.mul_(2),
    "an eps": lambda net: setattr(net.bn1, "eps", 1.0),
    "a state dict": lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    "a batch in training mode": lambda net: (net.train()(torch.rand(4, 3, 8, 8)), net.eval()),
    "another parameter": lambda net: setattr(net.block1_1.conv_a, "weight", nn.Parameter(torch.rand(16, 16, 3, 3))),
    "another mean": lambda net: net.normalize.mean.add_(0.1),
    "another std": lambda net: net.normalize.std.mul_(2),
    "another module": lambda net: setattr(net.block1_1, "bn_out", nn.BatchNorm2d(16).eval()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change, net, images, is_fused):
    fused = Fused(net)
    before = fused(images)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    CHANGES[change](net)
    after = fused(images)
    assert is_fused(fused) and not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, net(images), rtol=1e-4, atol=1e-4)


def test_a_replaced_backward_pass_is_used(net, images, logits_and_gradient):
    fused = Fused(net)
    plain = logits_and_gradient(fused, images)
    with replaced_backward({net.block1_1.act_a: lambda x: 2 * x}):
        expected, found = (logits_and_gradient(one, images) for one in (net, fused))
        assert len(fused._form.convs) == 9
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found[1], plain[1], rtol=1e-2)
    assert torch.equal(logits_and_gradient(fused, images)[1], plain[1])


def test_with_hooks_of_blocks_the_network_answers(net, images, is_fused):
    fused = Fused(net)
    expected = fused(images)
    for module, register in ((net.block1_1, "register_forward_hook"), (net, "register_forward_pre_hook")):
        seen = []
        handle = getattr(module, register)(lambda module, x, y=None, seen=seen: seen.append(type(x[0])))
        assert torch.equal(fused(images), net(images)) and not is_fused(fused)
        assert set(seen) == {torch.Tensor}
        handle.remove()
    assert torch.equal(fused(images), expected) and is_fused(fused)


def test_a_batch_of_the_wrong_shape_does_not_prevent_fusing(net, images, is_fused):
    fused = Fused(net)
    with pytest.raises(ValueError, match="takes images of shape"):
        fused(images[..., :4])
    fused(images)
    assert is_fused(fused)


def test_a_network_fused_in_inference_mode_is_differentiable_later(net, images, logits_and_gradient, is_fused):
    fused = Fused(net)
    with torch.inference_mode():
        expected = fused(images)
    images[2] = torch.nan
    found, _ = logits_and_gradient(fused, images)
    torch.testing.assert_close(found[:2], expected[:2])
    assert found[2].isnan().all() and is_fused(fused)


def test_threads_do_not_disturb_each_other(net, images, logits_and_gradient):
    fused = Fused(net)
    batches = [images + 0.01 * number for number in range(8)]
    expected = [logits_and_gradient(fused, batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: logits_and_gradient(fused, batch), batches * 20))
    for at, pair in enumerate(found):
        assert all(map(torch.equal, pair, expected[at % 8]))


def in_training(net, x):
    return net.train(), x


def in_double(net, x):
    return net.double(), x.double()


def with_other_weights(net, x):
    net.normalize.register_forward_hook(lambda module, x, y: y.bfloat16())
    net.fc.register_forward_hook(lambda module, x, y: y.float())
    return net.bfloat16(), x


def without_images(net, x):
    return net, x[:0]


@pytest.mark.parametrize("case", [in_training, in_double, with_other_weights, without_images])
def test_the_network_answers_where_fusing_does_not_apply(case, net, images, is_fused):
    net, images = case(net, images)
    fused = Fused(net)
    twin = copy.deepcopy(net)
    assert torch.equal(fused(images), twin(images)) and not is_fused(fused)


def test_the_network_answers_under_autocast_and_with_another_engine(net, images, is_fused):
    fused = Fused(net)
    with ops.force("eager"):
        assert torch.equal(fused(images), net(images))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(images), net(images))
    assert not is_fused(fused)


def test_images_of_the_wrong_shape_raise_the_error_of_the_network(net):
    used = Fused(net)
    used(torch.rand(2, 3, 8, 8))
    for one in (net, Fused(net), used):
        with pytest.raises(ValueError, match=r"KafResNet takes images of shape \(N, 3, 8, 8\), got \(1, 3, 8, 9\)"):
            one(torch.rand(1, 3, 8, 9))


class Branching(nn.Module):
    """Branches on its input, which cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if y.sum() > 0 else -y


class Counting(Branching):
    """Gives other logits at every call, but not in its traced form."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x).mean((2, 3)) * self.calls


@pytest.mark.parametrize(("kind", "said"), [(Branching, "symbolically traced"), (Counting, "answers at random")])
def test_a_network_that_cannot_be_fused_answers_itself(kind, said, images, caplog, is_fused):
    torch.manual_seed(0)
    net = kind().eval()
    fused = Fused(net)
    with caplog.at_level("INFO", "kafnets"):
        fused(images)
    assert not is_fused(fused) and said in caplog.text and kind.__name__ in caplog.text
    net.calls = 0
    expected = net(images)
    net.calls = 0
    assert torch.equal(fused(images), expected)


def test_a_random_network_answers_itself(net, images, is_fused):
    net.normalize.register_forward_hook(lambda module, x, y: y + 0.01 * torch.rand_like(y))
    fused = Fused(net)
    assert not torch.equal(fused(images), fused(images)) and not is_fused(fused)


def test_a_network_whose_fused_gradient_is_wrong_answers_itself(net, images, monkeypatch, caplog, is_fused):
    right = ConvChain.backward
    monkeypatch.setattr(ConvChain, "backward", lambda *given: [-grad for grad in right(*given)])
    fused = Fused(net)
    with caplog.at_level("WARNING", "kafnets"):
        assert torch.equal(fused(images), net(images)) and not is_fused(fused)
    assert "does not agree with it" in caplog.text


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_tiny_and_zero_gradients_agree(size, net, images, logits_and_gradient, is_fused):
    net.fc.weight.data *= size
    fused = Fused(net)
    assert logits_and_gradient(fused, images)[1].abs().max() <= size and is_fused(fused)


def test_an_attack_misclassifies_the_same_images(net, images):
    with torch.no_grad():
        y = net(images).argmax(1)
    attack = PGD(eps=0.03, step_size=0.01, steps=10, restarts=2)
    keys = torch.arange(len(y))
    ours, theirs = (attack(one, images, y, keys=keys) for one in (Fused(net), net))
    assert torch.equal(net(ours).argmax(1), net(theirs).argmax(1))
    assert not torch.equal(net(ours).argmax(1), y)


def test_within_held_still_the_network_is_compared_once(net, images, monkeypatch):
    compared = []
    is_of = _FusedForm.is_of
    monkeypatch.setattr(_FusedForm, "is_of", lambda form, modules: compared.append(form) or is_of(form, modules))
    fused = Fused(net)
    before = fused(images)
    with fused.held_still(), fused.held_still():
        assert torch.equal(fused(images), fused(images))
    assert len(compared) == 1
    with torch.no_grad():
        net.conv1.weight.mul_(2)
    assert not torch.allclose(fused(images), before)
    with fused.held_still():  # the network may have changed since it was last compared
        net.conv1.weight.data.mul_(0.5)
        torch.testing.assert_close(fused(images), before)
    attack, y = PGD(steps=3, eps=0.03, step_size=0.01), torch.zeros(len(images), dtype=torch.int64)
    for run in (attack, lambda *given: attack.craft(*given, eval_mode=True)):
        compared.clear()
        run(fused, images, y)
        assert len(compared) == 1
