"""The guard against catastrophic overfitting: when it speaks, what it does, and that it changes nothing otherwise."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback

from kafnets.attacks import FGSM, PGD
from kafnets.keyed_random import image_keys
from kafnets.objectives import AWP, ELLE, MART, NFGSM, Adversarial, Clean, GradAlign
from lightning_modules.callbacks import Collapse, OverfittingGuard, WeightAverage, overfitting_guard
from lightning_modules.callbacks.overfitting_guard import PROBE
from lightning_modules.command_line.checkpoints import check_fits, read_checkpoint


class Scripted(OverfittingGuard):
    """Sees a collapse at given steps; a false alarm if the first images are the only ones that show it."""

    def __init__(self, *collapses, false_alarm=False, **settings):
        super().__init__(**settings)
        self.collapses, self.false_alarm, self.probes = collapses, false_alarm, []

    def accuracies(self, trainer, module, images):
        if images == self.images:
            self.probes.append(trainer.global_step)
        seen = trainer.global_step in self.collapses and not (self.false_alarm and images > self.images)
        return (0.9, 0.1) if seen else (0.5, 0.45)


class States(Callback):
    """Keeps the weights at the start of training and after every step."""

    def __init__(self):
        self.after = {}

    def on_train_start(self, trainer, module):
        self.after[trainer.global_step] = state(module)

    def on_train_batch_end(self, trainer, module, *rest):
        self.after[trainer.global_step] = state(module)


def state(module):
    return {name: value.clone() for name, value in module.net.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_healthy_run_is_left_as_it_is(make_module, make_data, make_trainer, recwarn):
    nets = []
    for name, guards in (("plain", []), ("guarded", [OverfittingGuard(every=3, images=40)])):
        module = make_module()
        make_trainer(*guards, name=name, max_epochs=1).fit(module, make_data())
        nets.append(state(module))
    assert same(*nets)
    assert not [w for w in recwarn if "overfitting" in str(w.message)]


def test_it_counts_held_out_images_under_both_attacks(make_module, make_data, make_trainer):
    class Recording(OverfittingGuard):
        def _probe(self, trainer, module):
            found.append(self.accuracies(trainer, module, self.images))
            x, y, index = trainer.datamodule.val_set[torch.arange(30)]
            x, keys, net = x.float() / 255, image_keys(index, module.seed, PROBE), module.net
            net.eval()
            right = net(x).argmax(1) == y
            for attack in (FGSM(), PGD(steps=10)):
                adv = attack.within(module.threat)(net, x, y, keys=keys)
                expected.append((right & (net(adv).argmax(1) == y)).float().mean().item())
            net.train()

    found, expected = [], []
    make_trainer(Recording(every=10**6, images=30), max_epochs=1, limit_train_batches=20).fit(
        make_module(), make_data()
    )
    assert found == [pytest.approx(tuple(expected))]


def test_it_probes_at_intervals_and_ends_of_epochs(make_module, make_data, make_trainer):
    guard = Scripted(every=3)
    make_trainer(guard, max_epochs=2).fit(make_module(), make_data())
    assert guard.probes == [3, 4, 6, 8]


def test_a_step_of_several_batches_is_probed_once(make_module, make_data, make_trainer):
    guard = Scripted(every=1)
    make_trainer(guard, max_epochs=1, accumulate_grad_batches=2).fit(make_module(), make_data())
    assert guard.probes == [1, 2]


def test_an_average_goes_back_too(make_module, make_data, make_trainer, logged):
    average, seen = WeightAverage(), {}

    class After(Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            seen[trainer.global_step] = average.steps, [p.clone() for p in average.net.parameters()]

    guard = Scripted(4, every=2, fallback=NFGSM())
    with pytest.warns(UserWarning, match="catastrophic"):
        trainer = make_trainer(average, guard, After(), max_epochs=1)
        trainer.fit(make_module(), make_data())
    assert logged(trainer, "guard/collapsed") == [0, 1] and logged(trainer, "guard/pgd_accuracy") == [0.45, 0.1]
    assert seen[4][0] == seen[2][0] == 2 and seen[3][0] == 3
    back, good, bad = (seen[step][1] for step in (4, 2, 3))
    assert all(map(torch.equal, back, good)) and not all(map(torch.equal, back, bad))


def test_a_network_that_overwrites_its_input_gives_the_same_figures(make_module, make_data, make_trainer):
    found = []
    for shifted in (lambda net, args: (args[0] - 0.1,), lambda net, args: args[0].sub_(0.1)):
        module, guard = make_module(attack_view=None), OverfittingGuard()
        module.net.register_forward_pre_hook(shifted)
        guard._probe = lambda trainer, module, guard=guard: found.append(guard.accuracies(trainer, module, 100))
        trainer = make_trainer(Collapse(), guard, WeightAverage(), max_epochs=1)
        trainer.fit(module, make_data())
        found.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert found[:2] == found[2:]


def test_a_jump_of_the_training_accuracy_is_reason_for_a_probe(make_module, make_data, make_trainer, monkeypatch):
    class Jumping(Scripted):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            module.accuracy = torch.tensor(0.3 if trainer.global_step <= 4 else 0.5)
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(overfitting_guard, "WINDOW", 2)
    guard = Jumping(every=10**6)
    make_trainer(guard, max_epochs=1, limit_train_batches=10).fit(make_module(), make_data())
    assert guard.probes == [6, 10]


def last(tmp_path, name="run"):
    return tmp_path / name / "version_0" / "checkpoints" / "last.ckpt"


def test_by_default_it_tells_and_training_goes_on(make_module, make_data, make_trainer, tmp_path):
    guard, module = Scripted(4, 6, every=2), make_module()
    with pytest.warns(
        UserWarning,
        match=r"catastrophic overfitting at step 4 \(epoch 1\): .* 90% resist FGSM Linf eps 0.1 and 10% resist PGD",
    ) as said:
        trainer = make_trainer(guard, max_epochs=2)
        trainer.fit(module, make_data())
    assert len([w for w in said if "catastrophic" in str(w.message)]) == 1
    assert trainer.global_step == 8 and guard.probes == [2, 4]
    (event,) = guard.state_dict()["events"]
    assert (event["kind"], event["step"], event["epoch"]) == ("catastrophic overfitting", 4, 1)
    assert module.labels()["objective"] == "Adversarial-FGSM"
    late = make_trainer(Scripted(stop=True), name="late", max_epochs=3)
    with pytest.raises(ValueError, match="collapsed at step 4 and trained on, so OverfittingGuard has no good weights"):
        late.fit(make_module(), make_data(), ckpt_path=last(tmp_path))


def test_a_gap_of_few_images_must_be_that_of_more(make_module, make_data, make_trainer, recwarn, logged):
    guard = Scripted(2, every=2, stop=True, false_alarm=True)
    trainer = make_trainer(guard, max_epochs=1)
    trainer.fit(make_module(), make_data())
    assert guard.probes == [2, 4] and guard.events == [] and logged(trainer, "guard/collapsed") == [0, 0]
    assert not [w for w in recwarn if "overfitting" in str(w.message)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_process_probes_its_share_in_batches_of_training(ranks, make_module, make_data):
    data, module, sizes, seen = make_data(), make_module(), [], []
    data.setup("fit")
    module.net.register_forward_pre_hook(lambda net, args: sizes.append(len(args[0])))
    guard = OverfittingGuard()
    guard._count = lambda module, batch, counters, count=guard._count: (
        seen.extend(batch[2]) or count(module, batch, counters)
    )
    for rank in range(ranks):
        guard.accuracies(SimpleNamespace(datamodule=data, global_rank=rank, world_size=ranks), module, 75)
    assert torch.equal(torch.stack(seen).sort()[0], data.val_set[torch.arange(75)][2].sort()[0])
    assert max(sizes) <= 32


@pytest.mark.filterwarnings("ignore:catastrophic")
def test_it_stops_a_run_with_the_last_good_weights(make_module, make_data, make_trainer, tmp_path):
    states, module = States(), make_module()
    trainer = make_trainer(states, Scripted(6, every=2, stop=True), max_epochs=5)
    trainer.fit(module, make_data())
    assert trainer.current_epoch == 2 and trainer.global_step == 6
    assert same(state(module), states.after[4]) and not same(state(module), states.after[5])
    kept = torch.load(last(tmp_path), weights_only=True)["state_dict"]
    assert all(torch.equal(value, kept[f"net.{name}"]) for name, value in states.after[4].items())
    for again in (Scripted(stop=True), Scripted()):
        with pytest.raises(ValueError, match="stopped this run because it collapsed at step 6; to go on from its last"):
            make_trainer(again, name="again").fit(make_module(), make_data(), ckpt_path=last(tmp_path))
    resumed = make_module()
    trainer = make_trainer(Scripted(fallback=NFGSM()), name="resumed", max_epochs=3)
    trainer.fit(resumed, make_data(), ckpt_path=last(tmp_path))
    assert resumed.labels()["objective"] == "Adversarial-FGSM, from step 6 NFGSM"
    assert trainer.current_epoch == 3 and not same(state(resumed), state(module))


@pytest.mark.filterwarnings("ignore:catastrophic")
@pytest.mark.parametrize("settings", [{"fallback": NFGSM()}, {"stop": True}], ids=["fallback", "stop"])
def test_without_a_good_probe_it_goes_back_to_the_start(settings, make_module, make_data, make_trainer):
    states, guard = States(), Scripted(2, every=2, **settings)
    make_trainer(guard, states, max_epochs=1, limit_train_batches=2).fit(make_module(), make_data())
    assert same(states.after[2], states.after[0]) and not same(states.after[1], states.after[0])
    assert "back to the weights of step 0, and" in guard.events[0]["text"]


@pytest.mark.filterwarnings("ignore:catastrophic")
def test_a_fallback_that_is_new_in_a_resumed_run_goes_back_to_its_start(make_module, make_data, make_trainer, tmp_path):
    make_trainer(Scripted(), name="begun", max_epochs=1).fit(make_module(), make_data())
    states, guard = States(), Scripted(6, every=2, fallback=NFGSM())
    trainer = make_trainer(guard, states, max_epochs=2)
    trainer.fit(make_module(), make_data(), ckpt_path=last(tmp_path, "begun"))
    assert same(states.after[6], states.after[4]) and not same(states.after[5], states.after[4])


@pytest.mark.filterwarnings("ignore:catastrophic")
def test_it_goes_back_and_on_with_another_objective(make_module, make_data, make_trainer, tmp_path):
    def run(name, epochs, checkpoint=None):
        module, guard, states = make_module(), Scripted(6, every=2, fallback=NFGSM()), States()
        make_trainer(guard, states, name=name, max_epochs=epochs).fit(module, make_data(), ckpt_path=checkpoint)
        return module, states.after

    whole, seen = run("whole", 3)
    assert same(seen[6], seen[4]) and not same(seen[6], seen[5])
    assert whole.labels()["objective"] == "Adversarial-FGSM, from step 6 NFGSM"
    assert isinstance(whole.current_objective, NFGSM)
    broken, _ = run("broken", 2)
    resumed, _ = run("resumed", 3, last(tmp_path, "broken"))
    assert resumed.labels()["objective"] == "Adversarial-FGSM, from step 6 NFGSM"
    assert same(state(resumed), state(whole)) and not same(state(broken), state(whole))
    for other in ({}, {"fallback": NFGSM(noise=4.0)}):
        trainer = make_trainer(Scripted(**other), name="other")
        with pytest.raises(ValueError, match="went on as Adversarial-FGSM, from step 6 NFGSM after a collapse; give"):
            trainer.fit(make_module(), make_data(), ckpt_path=last(tmp_path, "broken"))


@pytest.mark.filterwarnings("ignore:catastrophic")
def test_a_checkpoint_tells_which_objective_trained_it(make_module, make_data, make_trainer, tmp_path):
    module, data = make_module(objective=ELLE(weight=1.0)), make_data()  # its buffers are part of checkpoints
    module.on_validation_epoch_end = lambda: module.log("val/robust_accuracy", 0.5 - 0.1 * module.current_epoch)
    trainer = make_trainer(Scripted(6, every=2, fallback=NFGSM()), max_epochs=2)
    trainer.fit(module, data)
    best = trainer.checkpoint_callback.best_model_path
    assert read_checkpoint(best)["global_step"] == 4  # before the collapse
    told = {}
    for path in (best, last(tmp_path)):
        trainer.test(module, data, ckpt_path=path, verbose=False)
        told[path] = module.labels()["objective"]
        check_fits(path, read_checkpoint(path), make_module(objective=ELLE(weight=1.0)))
    own = ELLE(weight=1.0).label
    assert list(told.values()) == [own, f"{own}, from step 6 NFGSM"]


def test_a_fallback_that_collapses_is_told(make_module, make_data, make_trainer):
    guard = Scripted(4, 8, 10, every=2, fallback=NFGSM())
    with pytest.warns(UserWarning, match="at step 8 .*; the fallback NFGSM has collapsed too; training goes on"):
        make_trainer(guard, max_epochs=3).fit(make_module(), make_data())
    assert [event["step"] for event in guard.events] == [4, 8] and guard.probes == [2, 4, 6, 8]


def test_a_stop_and_a_shortest_run_are_refused(make_module, make_data, make_trainer):
    with pytest.raises(ValueError, match=r"can't stop a run before trainer\.min_epochs"):
        make_trainer(OverfittingGuard(stop=True), min_epochs=2).fit(make_module(), make_data())


def test_a_run_without_held_out_images_is_refused(make_module, make_data, make_trainer):
    data = make_data()
    data.setup("fit")
    with pytest.raises(ValueError, match="attacks the val_set of a data module"):
        make_trainer(OverfittingGuard()).fit(make_module(), data.train_dataloader())


@pytest.mark.parametrize(
    ("objective", "watched"),
    [
        (Adversarial, True),
        (NFGSM, True),
        (GradAlign, True),
        (lambda: AWP(objective=NFGSM()), True),
        (lambda: Adversarial(attack=PGD(steps=2)), False),
        (Clean, False),
        (MART, False),
    ],
)
def test_single_step_objectives_are_watched(objective, watched):
    assert objective().single_step == watched


def test_a_slow_decline_is_told_apart(make_module, make_data, make_trainer, logged, capsys):
    module = make_module()
    module.on_validation_epoch_end = lambda: module.log("val/robust_accuracy", 0.5 - 0.02 * module.current_epoch)
    guard = OverfittingGuard(every=10**6)
    trainer = make_trainer(guard, max_epochs=3)
    trainer.fit(module, make_data())
    assert logged(trainer, "guard/robust_overfitting") == [pytest.approx(0.04)]
    said = "robust overfitting: validation robust accuracy fell from 50.0% in epoch 1 to 46.0% at the end"
    assert said in capsys.readouterr().out
    assert [(event["kind"], event["epoch"]) for event in guard.events] == [("robust overfitting", 1)]


def with_a_buffer():
    objective = Clean()
    objective.register_buffer("seen", torch.zeros(1))
    return objective


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every": 0}, "every must be >= 1, got 0"),
        ({"images": 0}, "images must be >= 1, got 0"),
        ({"jump": 0}, r"jump must lie in \(0, 1\), got 0"),
        ({"gap": 1}, r"gap must lie in \(0, 1\), got 1"),
        ({"stop": True, "fallback": NFGSM()}, "give one of them"),
        ({"fallback": with_a_buffer()}, "Clean has buffers or parameters, so it can't be a fallback"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        OverfittingGuard(**settings)
