"""Properties of every objective, with every activation and precision."""

import copy

import pytest
import torch
from torch import nn

from kafnets.attacks import PGD
from kafnets.losses import margin
from kafnets.objectives import AWP, ELLE, MART, NFGSM, TRADES, Adversarial, Clean, Free, GradAlign
from kafnets.threat import L2, ThreatModel

OBJECTIVES = {
    "clean": Clean,
    "fast_at": Adversarial,
    "fast_at_eval": lambda: Adversarial(eval_mode=True),
    "pgd_at": lambda: Adversarial(attack=PGD(steps=3)),
    "trades": lambda: TRADES(steps=3),
    "trades_train": lambda: TRADES(steps=3, eval_mode=False),
    "grad_align": GradAlign,
    "elle": lambda: ELLE(adaptive=False, weight=10.0),
    "n_fgsm": NFGSM,
    "mart": lambda: MART(steps=3),
    "awp": lambda: AWP(objective=Adversarial(attack=PGD(steps=3))),
    "free": Free,
}
# the first step of Free is clean
UNPERTURBED = (Clean, Free)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def state(net):
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    return tensors, [module.training for module in net.modules()]


@every_objective
@pytest.mark.parametrize("activation", ["relu", "kaf", "free_kaf", "kwta", "multi_kaf"])
@pytest.mark.parametrize("threat", [ThreatModel(eps=0.1), ThreatModel(L2(), 0.5)], ids=str)
def test_a_step_reaches_every_parameter_and_changes_nothing_else(objective, activation, threat, make_net, make_batch):
    net, batch, objective = make_net(activation), make_batch(threat=threat), OBJECTIVES[objective]()
    given, before = [t.clone() for t in batch[:3]], state(net)
    terms = objective(net, batch)
    assert all(p.grad is None for p in net.parameters())
    after = state(net)
    assert after[1] == before[1]
    parameters = dict(net.named_parameters())
    assert all(torch.equal(after[0][name], before[0][name]) for name in parameters)
    assert all(torch.equal(a, b) for a, b in zip(batch[:3], given, strict=True))
    assert terms.loss.dim() == 0 and torch.isfinite(terms.loss)
    assert terms.logits.shape == (6, 5)
    size = threat.norm.size(terms.inputs - batch.x)
    reach = 3 if isinstance(objective, NFGSM) else 1
    assert size.max() <= reach * threat.eps * (1 + 1e-6) and terms.inputs.min() >= 0 and terms.inputs.max() <= 1
    assert (size.min() > 0.1 * threat.eps) == (not isinstance(objective, UNPERTURBED))
    assert terms.inputs.is_leaf and all(not value.requires_grad for value in terms.log.values())
    terms.loss.backward()
    for name, parameter in parameters.items():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0 or name == "0.bias", name  # batch norm cancels this bias


# GradAlign's first gradient and AWP's shift are constants by definition: see test_grad_align and test_awp
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name not in ("grad_align", "awp")])
def test_the_gradient_is_that_of_the_loss_in_double_precision(objective, make_net, make_batch):
    net, batch, objective = make_net("kaf").double(), make_batch(dtype=torch.float64), OBJECTIVES[objective]()
    inputs = objective.craft(net, batch)
    start = copy.deepcopy(net.state_dict())

    def value():
        net.load_state_dict(start)
        return objective.loss(net, batch, inputs).loss

    (slope,) = torch.autograd.grad(value(), net[-1].weight)
    direction = torch.randn_like(slope)
    with torch.no_grad():
        h, weight = 1e-6, start["5.weight"].clone()
    ends = []
    for sign in (1, -1):
        start["5.weight"] = weight + sign * h * direction
        ends.append(value().item())
    found = (slope * direction).sum().item()
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


@every_objective
def test_the_noise_depends_on_the_keys_only(objective, make_net, make_batch):
    batch, objective = make_batch(), OBJECTIVES[objective]()
    found = []
    for seed, keys in ((1, batch.keys), (2, batch.keys), (1, batch.keys + 1)):
        torch.manual_seed(seed)
        found.append(objective(make_net(), batch._replace(keys=keys)))
    assert torch.equal(found[0].loss, found[1].loss) and torch.equal(found[0].inputs, found[1].inputs)
    if not isinstance(objective, UNPERTURBED):
        assert not torch.equal(found[0].loss, found[2].loss)


@every_objective
def test_craft_then_loss_equals_forward(objective, make_net, make_batch):
    batch, objective = make_batch(), OBJECTIVES[objective]()
    whole = objective(make_net(), batch)
    net = make_net()
    inputs = objective.craft(net, batch)
    parts = objective.loss(net, batch, inputs)
    assert torch.equal(whole.inputs, inputs)
    assert torch.equal(whole.loss, parts.loss)


@every_objective
def test_only_training_passes_update_running_statistics(objective, make_net, make_batch):
    net, batch = make_net(), make_batch()
    OBJECTIVES[objective]()(net, batch)
    assert net[1].num_batches_tracked == (2 if objective.startswith(("trades", "mart", "elle")) else 1)


@every_objective
@pytest.mark.parametrize("activation", ["relu", "kaf", "free_kaf", "kwta", "multi_kaf"])
def test_under_bf16_autocast(objective, activation, make_net, make_batch):
    net, batch, objective = make_net(activation), make_batch(), OBJECTIVES[objective]()
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(net, batch)
    assert terms.loss.dtype == torch.float32 and terms.inputs.dtype == torch.float32
    terms.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    "objective", ["clean", "fast_at", "trades", "grad_align", "elle", "n_fgsm", "mart", "awp", "free"]
)
def test_descent_lowers_the_loss(objective, make_net, make_batch):
    net, batch, objective = make_net(), make_batch(32), OBJECTIVES[objective]()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        terms = objective(net, batch)
        terms.loss.backward()
        optimizer.step()
        losses.append(terms.loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_the_loss_of_the_run_is_minimised(make_net, make_batch):
    batch = make_batch()._replace(loss=margin)
    for objective in (Clean(), Adversarial(), NFGSM(), Free(), GradAlign(weight=1e-9)):
        terms = objective(make_net(), batch)
        assert terms.loss.item() == pytest.approx(margin(terms.logits, batch.y).mean().item(), rel=1e-5)


def test_modes_of_the_attack_differ(make_net, make_batch):
    batch = make_batch()
    net = make_net(dropout=0.5)
    for build in (lambda mode: Adversarial(eval_mode=mode), lambda mode: TRADES(steps=2, eval_mode=mode)):
        torch.manual_seed(0)
        evaluated, trained = (build(mode).craft(net, batch) for mode in (True, False))
        assert not torch.equal(evaluated, trained)
        expected = build(False).craft(copy.deepcopy(net).eval(), batch)
        assert torch.equal(evaluated, expected)


def test_already_misclassified_images_are_attacked_in_training_too(make_net, make_batch):
    net, batch = make_net().eval(), make_batch()
    with torch.no_grad():
        wrong = (net(batch.x).argmax(1) + 1) % 5
    inputs = Adversarial(attack=PGD(steps=7)).craft(net, batch._replace(y=wrong))
    assert (inputs != batch.x).flatten(1).any(1).all()


def test_friendly_images_are_those_of_the_first_error(make_net, make_batch):
    net, batch = make_net(), make_batch(32, threat=ThreatModel(eps=0.3))
    friendly = Adversarial(attack=PGD(steps=10), eval_mode=True, stop_when_fooled=True)
    nearest, furthest = (one.craft(net, batch) for one in (friendly, Adversarial(attack=PGD(steps=10), eval_mode=True)))
    with torch.no_grad():
        wrong = [net.eval()(images).argmax(1) != batch.y for images in (nearest, furthest)]
    assert torch.equal(*wrong) and wrong[0].any()
    size = [(images - batch.x).abs().mean((1, 2, 3))[wrong[0]] for images in (nearest, furthest)]
    assert (size[0] <= size[1] + 1e-6).all() and size[0].mean() < 0.8 * size[1].mean()
    with pytest.raises(ValueError, match="stop_when_fooled=True needs eval_mode=True"):
        Adversarial(stop_when_fooled=True)


def test_an_attack_for_evaluation_is_refused():
    with pytest.raises(ValueError, match="training takes one start per image, got restarts=10"):
        Adversarial(attack=PGD(restarts=10))


def test_a_training_attack_may_have_an_eps_of_its_own(make_net, make_batch):
    batch = make_batch(threat=ThreatModel(eps=0.1))
    inputs = Adversarial(attack=PGD(eps=0.3, steps=5)).craft(make_net(), batch)
    assert 0.1 < (inputs - batch.x).abs().max() <= 0.3


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: TRADES(beta=0), "beta must be > 0 and finite, got 0; the official value is 6"),
        (lambda: TRADES(steps=0), "steps must be >= 1, got 0"),
        (lambda: TRADES(step_size="x"), "step_size must be a number or a fraction"),
        (lambda: GradAlign(weight=-1), "weight must be > 0 and finite, got -1"),
        (lambda: GradAlign(alpha=0), "alpha must be > 0 and finite, got 0"),
        (lambda: NFGSM(noise=0), "noise must be > 0 and finite, got 0; the authors use 2"),
        (lambda: MART(beta=-1), "beta must be > 0 and finite, got -1; the official value is 5"),
    ],
)
def test_settings_out_of_range_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_an_objective_is_a_module_whose_buffers_are_saved(make_net, make_batch):
    class Remembers(Clean):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.tensor(0))

        def after_backward(self, batch, terms):
            self.steps += 1

    objective = Remembers()
    objective.after_backward(make_batch(), None)
    assert nn.ModuleDict({"objective": objective}).state_dict()["objective.steps"] == 1
