"""The fused form of a network against the network itself."""

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from kafnets import ops
from kafnets.activations import KAF, KWTA, ReLU, SiLU
from kafnets.attacks import PGD
from kafnets.attacks.bpda import replaced_backward
from kafnets.backbones import ConvShortcut, Fused, KafResNet, KafVGG, LightNet, Normalize, PreActResNet18, ResNet
from kafnets.backbones.fused import _Form
from kafnets.ops import dispatch
from kafnets.ops.conv import ConvChain

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)

# how many convolutions are folded: all of them
BACKBONES = {
    "kafvgg": (functools.partial(KafVGG, width=16, hidden=16), 6),
    "kafresnet": (functools.partial(KafResNet, depth=14, width=16), 15),
    "resnet": (functools.partial(ResNet, depth=14, width=16), 13),
    "resnet_b": (functools.partial(ResNet, depth=8, width=16, shortcut=ConvShortcut), 9),
    "preactresnet18": (functools.partial(PreActResNet18, width=16), 20),
    "lightnet": (LightNet, 4),
}


def trained(net):
    """A network whose batch norms do something, in evaluation mode."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


@pytest.fixture(name="net")
def fixture_net():
    torch.manual_seed(0)
    return trained(KafResNet(depth=8, width=16, activation=ReLU, image_size=8))


@pytest.fixture(name="images")
def fixture_images():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def is_fused(fused):
    return bool(fused._form and fused._form.links)


def logits_and_gradient(net, x):
    x = x.clone().requires_grad_(True)
    logits = net(x)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]


@pytest.mark.parametrize("activation", [ReLU, KAF, SiLU, KWTA])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_agrees_with_its_fused_form(name, activation, images):
    torch.manual_seed(0)
    build, folded = BACKBONES[name]
    net = trained(build(activation=activation, image_size=8))
    fused = Fused(net)
    found = logits_and_gradient(fused, images)
    assert len(fused._form.links) == folded
    if activation is KWTA:  # rounding changes who wins, and with it the gradient
        torch.testing.assert_close(found[0], net(images), rtol=0.05, atol=0.05)
        return
    plain = logits_and_gradient(net, images)
    exact = logits_and_gradient(copy.deepcopy(net).double(), images.double())
    for ours, theirs, wanted in zip(found, plain, exact, strict=True):
        rounding = (theirs - wanted).abs().max()
        assert (ours - wanted).abs().max() <= 4 * rounding + 1e-6 * wanted.abs().max()


def test_all_that_can_be_is_folded(net, images):
    fused = Fused(net)
    fused(images)
    kinds = {type(module) for module in fused._form.graph.modules() if not list(module.children())}
    assert not kinds & {nn.Conv2d, nn.BatchNorm2d, ReLU, Normalize}
    assert sum(type(module).__name__ == "_Chain" for module in fused._form.graph.modules()) == 1


def test_it_stands_for_the_network(net, images):
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
def test_copies_are_on_their_own(copied, net, images):
    fused = Fused(net)
    before = fused(images)
    other = copied(fused)
    with torch.no_grad():
        net.fc.bias += 1
    torch.testing.assert_close(other(images), before, rtol=0, atol=1e-5)
    assert other.net is not net


CHANGES = {
    "a step of an optimizer": lambda net: torch.optim.SGD(net.parameters(), lr=1.0).step(),
    "one that counts no version": lambda net: torch.optim.SGD(net.parameters(), lr=1.0, fused=True).step(),
    "a write through data": lambda net: net.block1_1.conv_a.weight.data.mul_(2),
    "an eps": lambda net: setattr(net.bn1, "eps", 1.0),
    "a state dict": lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    "a batch in training mode": lambda net: (net.train()(torch.rand(4, 3, 8, 8)), net.eval()),
    "another parameter": lambda net: setattr(net.block1_1.conv_a, "weight", nn.Parameter(torch.rand(16, 16, 3, 3))),
    "another mean": lambda net: net.normalize.mean.add_(0.1),
    "another std": lambda net: net.normalize.std.mul_(2),
    "another module": lambda net: setattr(net.block1_1, "bn_out", trained(nn.BatchNorm2d(16))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change, net, images):
    fused = Fused(net)
    before = fused(images)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    CHANGES[change](net)
    after = fused(images)
    assert is_fused(fused) and not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, net(images), rtol=1e-4, atol=1e-4)


def test_replaced_backward_passes_are_seen(net, images):
    fused = Fused(net)
    plain = logits_and_gradient(fused, images)
    with replaced_backward({net.block1_1.act_a: lambda x: 2 * x}):
        expected, found = (logits_and_gradient(one, images) for one in (net, fused))
        assert len(fused._form.links) == 9
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found[1], plain[1], rtol=1e-2)
    assert torch.equal(logits_and_gradient(fused, images)[1], plain[1])


def test_hooks_of_blocks_leave_the_network_unfused(net, images):
    fused = Fused(net)
    expected = fused(images)
    for module, register in ((net.block1_1, "register_forward_hook"), (net, "register_forward_pre_hook")):
        seen = []
        handle = getattr(module, register)(lambda module, x, y=None, seen=seen: seen.append(type(x[0])))
        assert torch.equal(fused(images), net(images)) and not is_fused(fused)
        assert set(seen) == {torch.Tensor}
        handle.remove()
    assert torch.equal(fused(images), expected) and is_fused(fused)


def test_a_refused_batch_is_no_reason_to_stop(net, images):
    fused = Fused(net)
    with pytest.raises(ValueError, match="takes images of shape"):
        fused(images[..., :4])
    fused(images)
    assert is_fused(fused)


def test_inference_mode_does_not_stick(net, images):
    fused = Fused(net)
    with torch.inference_mode():
        expected = fused(images)
    images[2] = torch.nan
    found, _ = logits_and_gradient(fused, images)
    torch.testing.assert_close(found[:2], expected[:2])
    assert found[2].isnan().all() and is_fused(fused)


def test_threads_do_not_disturb_each_other(net, images):
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


@pytest.mark.parametrize("circumstance", [in_training, in_double, with_other_weights, without_images])
def test_elsewhere_the_network_answers(circumstance, net, images):
    net, images = circumstance(net, images)
    fused = Fused(net)
    twin = copy.deepcopy(net)
    assert torch.equal(fused(images), twin(images)) and not is_fused(fused)


def test_other_engines_and_autocast_get_the_network(net, images):
    fused = Fused(net)
    with ops.force("eager"):
        assert torch.equal(fused(images), net(images))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(images), net(images))
    assert not is_fused(fused)


def test_wrong_images_are_refused_as_ever(net):
    used = Fused(net)
    used(torch.rand(2, 3, 8, 8))
    for one in (net, Fused(net), used):
        with pytest.raises(ValueError, match=r"KafResNet takes images of shape \(N, 3, 8, 8\), got \(1, 3, 8, 9\)"):
            one(torch.rand(1, 3, 8, 9))


class Branching(nn.Module):
    """Decides by what it is given, which no trace can follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if y.sum() > 0 else -y


class Counting(Branching):
    """Answers differently every time it is called from Python, but not when it is traced."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x).mean((2, 3)) * self.calls


@pytest.mark.parametrize(("kind", "said"), [(Branching, "symbolically traced"), (Counting, "answers at random")])
def test_what_cannot_be_fused_is_left_as_it_is(kind, said, images, caplog):
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


class Strange(nn.Module):
    """Every kind of convolution, and additions, that can't be folded or only in part."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular"),
                nn.Conv2d(16, 16, 3, padding=1, groups=2),
                nn.Conv2d(16, 16, 3, padding=2, dilation=2),
                nn.Conv2d(16, 16, (3, 1), padding=(1, 0)),
                nn.Conv2d(16, 16, 3, padding="same"),
                nn.Conv2d(16, 10, 3, padding=1),
                nn.Conv2d(10, 16, 3, padding=1),
                nn.Conv2d(16, 16, 3, padding=1, bias=False),
            ]
        )
        self.plain = nn.BatchNorm2d(16, affine=False)
        self.stateless = nn.BatchNorm2d(16, track_running_stats=False)
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.offset = nn.Parameter(torch.rand(1, 16, 1, 1))

    def forward(self, x):
        for conv in self.convs:
            x = conv(x)
        x = self.stateless(self.plain(x))
        y = self.last(x)
        y = y + y  # no skip: both are the same
        return (y + x + 1.0).relu().mean((2, 3))


class Offset(Strange):
    """Adds a parameter, which is no skip."""

    def forward(self, x):
        return (self.convs[7](self.convs[0](x)) + self.offset).mean((2, 3))


class Scaled(Strange):
    """Adds a multiple, and reads a value in two places."""

    def forward(self, x):
        a = self.convs[7](self.convs[0](x))
        b = self.last(a)
        c = torch.add(self.convs[7](b), a, alpha=0.5)
        return (b + c).mean((2, 3)) + b.amax((2, 3))


class Normalized(nn.Module):
    """Normalises images of any size, and reads them as many times as it has convolutions."""

    def __init__(self, convs, channels=3):
        super().__init__()
        self.normalize = Normalize(0.5, [0.2, *[0.5] * (channels - 1)], channels)
        self.convs = nn.ModuleList(nn.Conv2d(channels, 16, 3, padding=1) for _ in range(convs))

    def forward(self, x):
        x = self.normalize(x)
        return sum(conv(x).relu() for conv in self.convs).mean((2, 3))


class Clipped(ReLU):
    """What ReLU is not."""

    def forward(self, x):
        return super().forward(x).clamp_max(0.1)


def test_additions_of_multiples_and_values_read_twice(images):
    torch.manual_seed(0)
    net = trained(Scaled())
    fused = Fused(net)
    for one, other in zip(logits_and_gradient(fused, images), logits_and_gradient(net, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert [link.addition is None for link in fused._form.links] == [True] * 3


@pytest.mark.parametrize(("convs", "channels", "folded"), [(1, 3, True), (2, 3, False), (1, 16, True)])
def test_normalisation_is_folded_where_one_convolution_reads_it(convs, channels, folded):
    torch.manual_seed(0)
    net = Normalized(convs, channels).eval()
    fused = Fused(net)
    for size in (8, 9, 8):
        images = torch.rand(6, channels, size, 8)
        for one, other in zip(logits_and_gradient(fused, images), logits_and_gradient(net, images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert is_fused(fused) and all(bool(link.normalize) == folded for link in fused._form.links)


def test_normalisation_by_one_number_stays_what_it_is(images):
    net = Normalized(1).eval()
    net.normalize.mean = torch.full((1,), 0.5)
    fused = Fused(net)
    torch.testing.assert_close(fused(images), net(images), rtol=1e-4, atol=1e-5)
    assert is_fused(fused) and fused._form.links[0].normalize is None


def test_subclasses_are_not_what_they_derive_from(net, images):
    net.act1 = Clipped(16).eval()
    fused = Fused(net)
    torch.testing.assert_close(fused(10 * images), net(10 * images), rtol=1e-4, atol=1e-4)
    assert is_fused(fused) and not any(node.name == "act1" for link in fused._form.links for node in link.nodes)


def test_noise_is_drawn_anew(net, images):
    net.normalize.register_forward_hook(lambda module, x, y: y + 0.01 * torch.rand_like(y))
    fused = Fused(net)
    assert not torch.equal(fused(images), fused(images)) and not is_fused(fused)


def test_an_addition_of_another_shape_is_no_skip(images):
    torch.manual_seed(0)
    net = trained(Offset())
    for one, other in zip(logits_and_gradient(Fused(net), images), logits_and_gradient(net, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_strange_layers_are_left_as_they_are(images):
    torch.manual_seed(0)
    net = trained(Strange())
    fused = Fused(net)
    for one, other in zip(logits_and_gradient(fused, images), logits_and_gradient(net, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # its batch norms magnify rounding by 60
    assert [link.conv for link in fused._form.links] == [net.convs[6], net.convs[7], net.last]


def test_a_wrong_gradient_is_not_trusted(net, images, monkeypatch, caplog):
    right = ConvChain.backward
    monkeypatch.setattr(ConvChain, "backward", lambda *given: [-grad for grad in right(*given)])
    fused = Fused(net)
    with caplog.at_level("WARNING", "kafnets"):
        assert torch.equal(fused(images), net(images)) and not is_fused(fused)
    assert "does not agree with it" in caplog.text


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_a_network_without_much_of_a_gradient(size, net, images):
    net.fc.weight.data *= size
    fused = Fused(net)
    assert logits_and_gradient(fused, images)[1].abs().max() <= size and is_fused(fused)


def test_an_attack_finds_the_same_through_it(net, images):
    with torch.no_grad():
        y = net(images).argmax(1)
    attack = PGD(eps=0.03, step_size=0.01, steps=10, restarts=2)
    keys = torch.arange(len(y))
    ours, theirs = (attack(one, images, y, keys=keys) for one in (Fused(net), net))
    assert torch.equal(net(ours).argmax(1), net(theirs).argmax(1))
    assert not torch.equal(net(ours).argmax(1), y)


def test_a_network_that_is_held_still_is_compared_once(net, images, monkeypatch):
    compared = []
    is_of = _Form.is_of
    monkeypatch.setattr(_Form, "is_of", lambda form, modules: compared.append(form) or is_of(form, modules))
    fused = Fused(net)
    before = fused(images)
    with fused.held_still(), fused.held_still():
        assert torch.equal(fused(images), fused(images))
    assert len(compared) == 1
    with torch.no_grad():
        net.conv1.weight.mul_(2)
    assert not torch.allclose(fused(images), before)
    with fused.held_still():  # what was compared before it may have changed since
        net.conv1.weight.data.mul_(0.5)
        torch.testing.assert_close(fused(images), before)
    compared.clear()
    PGD(steps=3, eps=0.03, step_size=0.01, early_stop=False)(fused, images, torch.zeros(len(images), dtype=torch.int64))
    assert len(compared) == 1
