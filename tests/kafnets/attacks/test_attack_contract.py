"""What holds for every attack, norm, use and network."""

import copy
import functools
import itertools

import pytest
import torch

from kafnets.attacks import PGD, Suite
from kafnets.attacks.minimum_norm import MinimumNorm
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct

from .attack_cases import NETS, NORMS, batch, build, every_attack, every_attack_in_one_norm, in_training


def evaluate(attack, net, x, y, *, keys=None):
    return attack(net, x, y, keys=keys)


def craft(attack, net, x, y, *, keys=None, eval_mode=True):
    if attack.restarts > 1:  # refused in training: see test_training_refuses_restarts
        attack = copy.copy(attack)
        attack.restarts = 1
    return attack.craft(net, x, y, keys=keys, eval_mode=eval_mode)


# the uses of an attack: to measure, and to train with the network in evaluation mode or in the modes it has
USES = {"evaluate": evaluate, "craft_eval": craft, "craft_as_it_is": functools.partial(craft, eval_mode=False)}


def snapshot(net):
    """Everything that an attack must not change: object identities, flags and values."""
    tensors = [*net.parameters(), *net.buffers()]
    grads = [parameter.grad for parameter in net.parameters()]
    facts = [(id(t), t.requires_grad, t._version) for t in net.parameters()]
    facts += [(id(b), b.requires_grad) for b in net.buffers()]
    facts += [(id(module), module.training) for module in net.modules()] + [id(grad) for grad in grads]
    return facts, [t.detach().clone() for t in [*tensors, *(g for g in grads if g is not None)]]


def assert_unchanged(net, before):
    facts, values = snapshot(net)
    assert facts == before[0]
    for now, then in zip(values, before[1], strict=True):
        assert torch.equal(now, then)


def assert_inside(x_adv, x, norm, eps):
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    for delta in (x_adv - x, x_adv.double() - x.double()):
        assert norm.size(delta).max().item() <= eps


every_use = pytest.mark.parametrize("use", USES)
in_eval_mode = pytest.mark.parametrize("use", ["evaluate", "craft_eval"])


@every_attack
@every_use
def test_inside_the_ball_and_the_network_untouched(attack, norm, use):
    net, (x, y, keys) = in_training("kaf_and_kwta"), batch()
    before, given = snapshot(net), (x.clone(), y.clone(), keys.clone())
    attack = build(attack, norm)
    x_adv = USES[use](attack, net, x, y, keys=keys)
    assert (x_adv.shape, x_adv.dtype, x_adv.device) == (x.shape, x.dtype, x.device)
    assert not x_adv.requires_grad
    # in evaluation, and by attacks that search for the nearest error, misclassified images are not moved
    if use != "evaluate" and not isinstance(attack, (MinimumNorm, Suite)):
        assert not torch.equal(x_adv, x)
    assert_inside(x_adv, x, *NORMS[norm])
    assert_unchanged(net, before)
    assert all(torch.equal(now, then) for now, then in zip((x, y, keys), given, strict=True))


@every_attack
def test_finds_errors_and_corrects_none(attack, norm):
    torch.manual_seed(1)
    net, (x, _, keys) = NETS["linear"]().eval(), batch(60)
    y = net(x).argmax(1).where(torch.arange(60) > 5, 0)  # the predicted class for most, not for all
    right = is_correct(net(x), y)
    right_attacked = is_correct(net(build(attack, norm)(net, x, y, keys=keys)), y)
    assert not bool((right_attacked & ~right).any())
    assert right_attacked.sum() < right.sum()


@every_attack_in_one_norm
@every_use
def test_same_keys_same_attack(attack, norm, use):
    (x, y, keys), net = batch(), in_training("linear")
    attack = functools.partial(USES[use], build(attack, norm))
    assert torch.equal(attack(net, x, y, keys=keys), attack(net, x, y, keys=keys))


@every_attack
@in_eval_mode
def test_the_result_for_an_image_does_not_depend_on_the_batch(attack, norm, use):
    net, (x, y, keys) = in_training("kaf").double(), batch(9, dtype=torch.float64)
    attack = functools.partial(USES[use], build(attack, norm))
    whole = attack(net, x, y, keys=keys)
    parts = [attack(net, *part[:2], keys=part[2]) for part in zip(x.split(5), y.split(5), keys.split(5), strict=True)]
    order = torch.randperm(len(x))
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(attack(net, x[order], y[order], keys=keys[order]), whole[order])


@every_attack_in_one_norm
@every_use
@pytest.mark.parametrize("outer", [torch.inference_mode, torch.no_grad], ids=["inference_mode", "no_grad"])
def test_inside_inference_mode_and_no_grad(attack, norm, use, outer):
    net, (x, y, keys) = in_training("relu"), batch()
    attack, before = functools.partial(USES[use], build(attack, norm)), snapshot(net)
    torch.manual_seed(4)
    expected = attack(net, x, y, keys=keys)
    torch.manual_seed(4)
    with outer():
        found = attack(net, x.clone(), y.clone(), keys=keys.clone())  # in inference mode, clones are inference tensors
        assert torch.equal(found, expected)
    assert not found.is_inference()
    assert_unchanged(net, before)


@every_attack
@in_eval_mode
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_keep_their_dtype_and_ball(attack, norm, use, dtype):
    net, (x, y, keys) = in_training("relu").to(dtype), batch(dtype=dtype)
    x_adv = USES[use](build(attack, norm), net, x, y, keys=keys)
    assert x_adv.dtype == dtype
    assert_inside(x_adv, x, *NORMS[norm])


@every_attack_in_one_norm
@every_use
def test_inside_autocast(attack, norm, use):
    net, (x, y, keys) = in_training("relu"), batch()
    before = snapshot(net)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = USES[use](build(attack, norm), net, x, y, keys=keys)
        assert x_adv.dtype == torch.float32
        assert_inside(x_adv, x, *NORMS[norm])
        assert_unchanged(net, before)
        net(x_adv).sum().backward()  # the weights that autocast has cached still belong to the graph of the parameters
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


@every_attack_in_one_norm
def test_an_empty_batch_gives_an_empty_batch(attack, norm):
    net, (x, y, keys) = in_training("relu"), batch()
    x_adv = build(attack, norm)(net, x[:0], y[:0], keys=keys[:0])
    assert (x_adv.shape, x_adv.dtype) == ((0, 3, 6, 6), x.dtype)
    assert build(attack, norm)(net, x[:0], y[:0]).shape == x_adv.shape


@every_attack
def test_plain_functions_and_flat_images_work(attack, norm):
    weight = torch.randn(20, 5)
    x, y = torch.rand(7, 20), torch.randint(5, (7,))
    x_adv = build(attack, norm)(lambda images: images @ weight, x, y)
    assert x_adv.shape == x.shape
    assert_inside(x_adv, x, *NORMS[norm])


@every_attack
def test_with_eps_0_nothing_changes(attack, norm):
    x, y, keys = batch()
    for use in USES.values():
        assert torch.equal(use(build(attack, norm, eps=0), in_training("relu"), x, y, keys=keys), x)


@pytest.mark.parametrize("norm", NORMS)
def test_keys_and_restarts_determine_the_start(norm):
    x, y, keys = batch()
    starts = []

    class Start(PGD):
        def run(self, net, x, y, keys, *, early_stop):
            starts.append(self.norm.random_start(x, self.eps, keys))
            return starts[-1]

    net = in_training("linear").eval()
    with torch.no_grad():
        y = net(x).argmax(1)  # no attempt is made on misclassified images
    attack = Start(norm=NORMS[norm][0], eps=1e-9, restarts=2)
    for other_keys in (keys, image_keys(torch.arange(len(x)), 99)):
        attack(net, x, y, keys=other_keys)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(starts, 2))


@pytest.mark.parametrize("norm", NORMS)
def test_random_numbers_follow_the_torch_seed_only_without_keys(norm):
    net, (x, y, keys) = in_training("linear"), batch()
    attack, found = build("fgsm", norm).craft, []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(attack(net, x, y))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    state = torch.get_rng_state()
    attack(net, x, y, keys=keys)
    assert torch.equal(torch.get_rng_state(), state)
