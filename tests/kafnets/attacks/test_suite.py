"""The worst case of several attacks: its order, its independence of batches and processes, and resuming it."""

import itertools
import json
import re

import pytest
import torch
from torch import nn

from kafnets.attacks import APGD, APGDT, FGSM, L1, L2, PGD, Attack, AutoAttack, Linf, Square, Suite
from kafnets.attacks.fab import FAB
from kafnets.attacks.gradient_estimators import EOT
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy, dlr, targeted_dlr


def some_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 24), nn.SiLU(), nn.Dropout(), nn.Linear(24, 5)).double()


N = 60
X = torch.rand(N, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
NET = some_net()
Y = NET.eval()(X).argmax(1).where(torch.arange(N) > 5, 0).detach()
KEYS = image_keys(torch.arange(N), 0)


def some_suite(batch_size=250, eps=0.05):
    attacks = {
        "fgsm": FGSM(eps=eps, alpha=0.2),
        "pgd": PGD(eps=eps, step_size=eps / 8, steps=3),
        "apgd": APGD(eps=eps, steps=15),
        "square": Square(eps=eps, queries=20),
    }
    return Suite(attacks, batch_size=batch_size)


def test_every_attack_tries_only_the_survivors_of_those_before():
    suite, robust, counts = some_suite(), is_correct(NET(X), Y), {}
    expected = X.clone()
    counts["clean"] = robust.sum().item()
    for number, (name, attack) in enumerate(suite.attacks.items()):
        left = robust.nonzero().flatten()
        found = attack(NET, X[left], Y[left], keys=image_keys(KEYS[left], number))
        wrong = ~is_correct(NET(found), Y[left])
        expected[left[wrong]], robust[left[wrong]] = found[wrong], False
        counts[name] = robust.sum().item()
    result = suite.evaluate(NET, X, Y, keys=KEYS)
    assert result.counts == counts
    assert torch.equal(result.robust, robust)
    torch.testing.assert_close(result.images[~robust], expected[~robust])
    assert torch.equal(is_correct(NET(result.images), Y), robust)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert len(set(counts.values())) >= 4


def test_of_images_that_withstand_the_one_of_the_largest_loss_is_kept():
    result = some_suite(eps=0.005).evaluate(NET, X, Y)
    loss, before = cross_entropy(NET(result.images), Y), cross_entropy(NET(X), Y)
    assert result.robust.sum() > 20
    assert bool((loss[result.robust] > before[result.robust]).all())


@pytest.mark.parametrize("batch_size", [1, 7, 60, None])
def test_batches_do_not_matter(batch_size):
    whole, parts = (some_suite(size).evaluate(NET, X, Y, keys=KEYS) for size in (250, batch_size))
    assert parts.counts == whole.counts
    assert torch.equal(parts.robust, whole.robust)
    torch.testing.assert_close(parts.images, whole.images)


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_together_find_what_one_process_finds(ranks):
    whole = some_suite().evaluate(NET, X, Y, keys=KEYS)
    shares = [torch.arange(rank, N, ranks) for rank in range(ranks)]
    found = [some_suite(9).evaluate(NET, X[rows], Y[rows], keys=KEYS[rows]) for rows in shares]
    for rows, part in zip(shares, found, strict=True):
        torch.testing.assert_close(part.images, whole.images[rows])
    added = {name: sum(part.counts[name] for part in found) for name in whole.counts}
    assert added == whole.counts


def test_called_as_an_attack_it_finds_the_same():
    result = some_suite().evaluate(NET, X, Y, keys=KEYS)
    found = some_suite()(NET, X, Y, keys=KEYS)
    # a restart has other keys than the image, so other starts: nearly as many errors
    assert abs(is_correct(NET(found), Y).sum().item() - result.robust.sum().item()) <= 3
    assert not bool((is_correct(NET(found), Y) & ~is_correct(NET(X), Y)).any())


def test_default_keys_are_those_of_the_images_in_order():
    assert torch.equal(some_suite().evaluate(NET, X, Y).images, some_suite().evaluate(NET, X, Y, keys=KEYS).images)


def test_no_image():
    result = some_suite().evaluate(NET, X[:0], Y[:0])
    assert result.images.shape == X[:0].shape
    assert set(result.counts.values()) == {0}


class Killed(BaseException):
    """Like a kill: no handler of ``Exception`` catches it."""


def kill_after(batches):
    steps = []

    def progress(step):
        steps.append(step)
        if len(steps) == batches:
            raise Killed

    return progress


class Counting(nn.Module):
    """Counts the images that its network is called with."""

    def __init__(self, net):
        super().__init__()
        self.net, self.images = net, 0

    def forward(self, x):
        self.images += len(x)
        return self.net(x)


@pytest.mark.parametrize("batches", [1, 3, 5, 8])
def test_a_killed_run_continues_from_its_state(tmp_path, batches):
    file, suite = tmp_path / "state.pt", some_suite(17)
    uninterrupted = Counting(NET)
    whole = suite.evaluate(uninterrupted, X, Y)
    first, second = Counting(NET), Counting(NET)
    with pytest.raises(Killed):
        suite.evaluate(first, X, Y, state_file=file, progress=kill_after(batches))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    resumed = some_suite(23).evaluate(second, X, Y, state_file=file)  # the size of batches may change
    assert resumed.counts == whole.counts
    assert torch.equal(resumed.robust, whole.robust)
    torch.testing.assert_close(resumed.images, whole.images)
    assert second.images < uninterrupted.images
    assert first.images + second.images <= uninterrupted.images + 200  # what was saved is not repeated


def test_a_finished_run_is_not_repeated(tmp_path):
    file, net = tmp_path / "state.pt", Counting(NET)
    first = some_suite().evaluate(Counting(NET), X, Y, state_file=file)
    again = some_suite().evaluate(net, X, Y, state_file=file)
    assert net.images == 1  # tells the number of classes
    assert again.counts == first.counts
    assert torch.equal(again.images, first.images)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (r"network.1.bias, network.1.weight, network.4.bias and 1 more", {"net": some_net(1)}),
        ("images", {"x": X.clamp(0.01)}),
        ("labels", {"y": (Y + 1) % 5}),
        ("keys", {"keys": KEYS + 1}),
        (r"attacks.fgsm._given.eps, .* and \d+ more", {"suite": some_suite(eps=0.04)}),
        (r"attacks, .* and \d+ more", {"suite": Suite({"pgd": PGD(eps=0.05)})}),
    ],
)
def test_the_state_of_another_run_is_refused_and_kept(tmp_path, part, other):
    file, run = tmp_path / "state.pt", {"suite": some_suite(), "net": NET, "x": X, "y": Y, "keys": KEYS}

    def go(suite, net, x, y, keys, progress=None):
        return suite.evaluate(net, x, y, keys=keys, state_file=file, progress=progress)

    with pytest.raises(Killed):
        go(**run, progress=kill_after(2))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=rf"state.pt is the state of another run: its {part} differ; delete it or"):
        go(**(run | other))
    assert file.read_bytes() == before
    go(**run)


@pytest.mark.parametrize("content", [b"", b"not a state", b'{"run": {}}'])
def test_a_file_that_is_no_state_is_refused_and_kept(tmp_path, content):
    file = tmp_path / "precious.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"precious.txt is no state of a suite of attacks"):
        some_suite().evaluate(NET, X, Y, state_file=file)
    assert file.read_bytes() == content
    torch.save({"state_dict": {}}, file)
    with pytest.raises(ValueError, match="is no state of a suite of attacks"):
        some_suite().evaluate(NET, X, Y, state_file=file)


def test_a_state_file_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    net = Counting(NET)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        some_suite().evaluate(net, X, Y, state_file=tmp_path / "nowhere" / "state.pt")
    assert net.images == 0


def test_a_state_file_needs_a_module(tmp_path):
    with pytest.raises(ValueError, match=r"a state file needs a torch.nn.Module.*got <lambda>"):
        some_suite().evaluate(lambda x: NET(x), X, Y, state_file=tmp_path / "state.pt")


class Small(nn.Module):
    """Out of memory for more than 13 images."""

    def __init__(self):
        super().__init__()
        self.net, self.sizes = NET, []

    def forward(self, x):
        if len(x) > 13:
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(len(x))
        return self.net(x)


def test_the_largest_batch_that_fits_is_found():
    net = Small()
    result = some_suite(None).evaluate(net, X, Y, keys=KEYS)
    assert 8 in net.sizes  # 60, 30, 15, 8
    assert net.sizes[0] == 1  # how many classes there are
    assert sum(net.sizes[1:9]) == N  # every image exactly once
    assert torch.equal(result.robust, some_suite().evaluate(NET, X, Y, keys=KEYS).robust)
    with pytest.raises(torch.OutOfMemoryError):
        some_suite(20).evaluate(net, X, Y)


def test_progress_counts_down():
    steps = []
    result = some_suite(17).evaluate(NET, X, Y, progress=steps.append)
    assert [step.number for step in steps] == sorted(step.number for step in steps)
    assert {step.attack for step in steps} == {"fgsm", "pgd", "apgd", "square"}
    for before, after in itertools.pairwise(steps):
        assert after.robust <= before.robust
        assert after.attack != before.attack or after.waiting < before.waiting
    assert (steps[-1].robust, steps[-1].images, steps[-1].waiting) == (result.robust.sum().item(), N, 0)
    assert steps[-1].seconds_left == 0
    assert all(step.seconds_left > 0 for step in steps[:-1])
    assert re.fullmatch(
        r"fgsm \(1/4\): \d+ of 60 robust so far, \d+ still to attack, about \d+:\d\d min left", str(steps[0])
    )


def test_the_network_is_unchanged():
    net = some_net().train()
    net[3].eval()
    some_suite().evaluate(net, X, Y)
    assert [module.training for module in net] == [True, True, True, False, True]
    with torch.inference_mode():
        some_suite().evaluate(net, X.clone(), Y.clone())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Suite({}), "a suite needs at least one attack"),
        (
            lambda: Suite({"a": PGD(eps=0.1), "b": PGD(eps=0.2)}),
            r"must share eps and norm \(Linf eps 0.1\), but b is PGD-50",
        ),
        (lambda: Suite({"a": PGD(eps=0.1), "b": PGD(eps=0.1, norm=L2())}), "but b is PGD-50-1 L2"),
        (lambda: Suite({"a": PGD()}, batch_size=0), "batch_size must be >= 1, got 0"),
        (lambda: AutoAttack("best"), "version must be one of standard, plus, rand, got 'best'"),
        (lambda: AutoAttack(eps=8), "for 8 grey levels write 8/255"),
        (lambda: some_suite().evaluate(NET, X, Y, keys=KEYS[:1]), r"keys must be one per image, shape \(60,\)"),
        (lambda: some_suite().evaluate(NET, X * 2, Y), "images must be finite and in"),
        (lambda: some_suite().evaluate(NET, X, Y + 4), "labels must lie in"),
        (
            lambda: Suite({"a": APGDT(targeted_loss=targeted_dlr)}).evaluate(lambda x: NET(x)[:, :3], X, Y % 3),
            "needs 4 classes or more, the network has 3",
        ),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_versions_are_those_of_the_paper():
    standard, plus, rand = (
        AutoAttack(version, eps="4/255", norm=L2()).attacks for version in ("standard", "plus", "rand")
    )
    assert [*standard] == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert [type(attack) for attack in standard.values()] == [APGD, APGDT, FAB, Square]
    assert all(attack.restarts == 1 for attack in standard.values())
    assert [standard[name].steps for name in ("APGD-CE", "APGD-T", "FAB-T")] == [100] * 3
    assert (standard["APGD-T"].targets, standard["FAB-T"].classes, standard["Square"].queries) == (9, 9, 5000)
    assert [*plus] == ["APGD-CE", "APGD-DLR", "FAB", "FAB again", "Square", "APGD-T", "FAB-T"]
    assert [attack.restarts for attack in plus.values()] == [5, 5, 1, 4, 1, 1, 1]
    assert (plus["FAB"].random_start, plus["FAB again"].random_start) == (False, True)
    assert (plus["APGD-DLR"].loss, plus["FAB"].targeted, plus["FAB-T"].targeted) == (dlr, False, True)
    assert [*rand] == ["APGD-CE", "APGD-DLR"]
    assert all(isinstance(attack.estimator, EOT) and attack.estimator.samples == 20 for attack in rand.values())
    for attack in (*standard.values(), *plus.values(), *rand.values()):
        assert (attack.eps, type(attack.norm)) == (4 / 255, L2)


@pytest.mark.parametrize(("version", "classes"), [("standard", 2), ("standard", 3), ("plus", 2), ("rand", 2)])
def test_autoattack_on_few_classes(version, classes):
    attack, few = AutoAttack(version, eps=0.05), lambda x: NET(x)[:, :classes]
    for name, part in attack.attacks.items():
        part.steps, part.queries = 5, 20  # for time
        assert "DLR" not in name or part.loss is dlr
    y = few(X).argmax(1)
    result, said = attack.evaluate(few, X, y), attack.for_classes(classes).settings()["attacks"]
    assert 0 < result.robust.sum() < N and list(result.counts) == ["clean", *said]
    if version != "rand":
        assert (said["APGD-T"]["targets"], said["FAB-T"]["classes"]) == (classes - 1, classes - 1)
        assert said["APGD-T"]["targeted_loss"] == "targeted_margin"
    if version != "standard":
        assert said["APGD-margin"]["loss"] == "margin" and "APGD-DLR" not in said
    if version == "standard":  # as an attack of its own, it does the same
        alone = attack.attacks["APGD-T"]
        assert not is_correct(few(alone(few, X, y)), y).all()
    assert attack.for_classes(10).settings() == attack.settings()


def test_settings_and_names():
    found = json.loads(json.dumps(AutoAttack("plus").settings()))
    assert (found["attack"], found["version"], found["eps"], found["norm"]) == ("AutoAttack", "plus", 8 / 255, "Linf")
    assert found["attacks"]["APGD-DLR"]["loss"] == "dlr"
    assert str(AutoAttack(norm=L2(), eps=1)) == "AutoAttack-standard L2 eps 1"
    assert str(some_suite()) == "Suite(fgsm, pgd, apgd, square) Linf eps 0.05"


def test_autoattack_finds_at_least_what_its_parts_find(digits):
    net, x, y = (digits[0], *(rows[:12] for rows in digits[1:]))
    attack = AutoAttack(eps=0.12)
    attack.attacks["Square"].queries = 300  # for time
    result = attack.evaluate(net, x, y)
    assert result.robust.sum() == result.counts["Square"] <= result.counts["APGD-CE"] < result.counts["clean"]
    assert Linf().size(result.images - x).max() <= 0.12
    for attack in (PGD(eps=0.12, step_size=0.02, steps=50), APGD(eps=0.12, loss=dlr)):
        assert is_correct(net(attack(net, x, y)), y).sum() >= result.robust.sum()


def test_passes_of_each_attack():
    passes = {name: attack.passes() for name, attack in AutoAttack("standard").attacks.items()}
    assert passes == {"APGD-CE": 300, "APGD-T": 2700, "FAB-T": 2700, "Square": 5000}
    assert AutoAttack("standard").passes() == sum(passes.values())
    assert isinstance(AutoAttack(), Attack)


def test_autoattack_in_l1_takes_more_starts_and_fewer_targets():
    attacks = AutoAttack("standard", eps=2, norm=L1()).attacks
    assert (attacks["APGD-CE"].restarts, attacks["APGD-T"].targets, attacks["FAB-T"].classes) == (5, 5, 9)
    attacks = AutoAttack("standard", eps=0.5, norm=L2()).attacks
    assert (attacks["APGD-CE"].restarts, attacks["APGD-T"].targets) == (1, 9)


def test_resumes_within_inference_mode(tmp_path):
    file = tmp_path / "state.pt"
    whole = some_suite(17).evaluate(NET, X, Y)
    with pytest.raises(Killed):
        some_suite(17).evaluate(NET, X, Y, state_file=file, progress=kill_after(2))
    with torch.inference_mode():
        resumed = some_suite(17).evaluate(NET, X, Y, state_file=file)
    assert torch.equal(resumed.images, whole.images) and resumed.counts == whole.counts
