"""Each check at its threshold, on made-up results."""

import pytest
import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.sanity_checks import sanity_checks

FACTS = {"training": set(), "changed": set(), "half": set()}


def ones(total, zeros=0):
    """Some zeros, then ones."""
    return (torch.arange(total) >= zeros).double()


def first(count, total=1000):
    """Some ones, then zeros."""
    return 1 - ones(total, count)


def check(name, facts=FACTS, total=1000, **columns):
    columns = {column.replace("__", "/"): values for column, values in columns.items()}
    results = PerImageResults({"index": torch.arange(total), "clean": ones(total)} | columns)
    (found,) = (one for one in sanity_checks(results, facts) if one.name == name)
    assert bool(found.advice) == (found.status in ("warn", "fail")), "advice if and only if something must be done"
    return found


BLACK = "black box is not stronger than white box"


@pytest.mark.parametrize(
    ("only_black", "only_white", "status"),
    [
        (0, 0, "pass"),
        (1, 0, "warn"),
        (4, 0, "warn"),
        (0, 4, "pass"),
        (4, 1, "pass"),
        (5, 5, "pass"),
        (12, 3, "warn"),
        (28, 99, "pass"),
        (31, 99, "warn"),
    ],
)
def test_black_box_against_white_box(only_black, only_white, status):
    index = torch.arange(1000)
    white = 1 - ((index >= 100) & (index < 100 + only_white)).double()
    black = 1 - ((index >= 500) & (index < 500 + only_black)).double()
    for role, name in (
        ("black", BLACK),
        ("single", "a single step is not stronger than many"),
        ("transfer", "transfer from a surrogate is not stronger than white box"),
    ):
        found = check(name, white__a=white, **{f"{role}__b": black})
        assert found.status == status
        assert found.numbers.startswith(f"broke {only_black} of 1000") and f"they {only_white} that" in found.numbers
        assert found.images == tuple(range(500, 500 + only_black))


def test_images_that_fall_to_a_black_box_alone_are_named_whatever_the_status():
    for only_white, status in ((0, "warn"), (4, "pass")):
        white, black = 1 - ((torch.arange(50) < only_white).double()), ones(50)
        black[[7, 30, 41]] = 0
        found = check(BLACK, total=50, white__a=white, black__b=black)
        assert found.status == status and found.numbers.endswith(": images 7, 30, 41")
    many = check(BLACK, white__a=ones(1000), black__b=ones(1000, 12))
    assert many.numbers.endswith(": images 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more") and len(many.images) == 12


def test_randomness_is_named_first_and_checks_that_need_repeatable_answers_are_not_run():
    columns = {"probe/repeatable": ones(9, 1), "repaired/white/PGD": ones(9), "outside/white/PGD": ones(9)}
    columns |= {"probe/zero_gradient": ones(9), "probe/nonfinite_gradient": first(0, 9)}
    results = PerImageResults({"index": torch.arange(9), "clean": ones(9)} | columns)
    checks = sanity_checks(results, FACTS)
    assert (checks[0].name, checks[0].status) == ("the same input gives the same output", "fail")
    found = {each.name: each for each in checks}
    repaired = found["robust accuracy does not exceed clean"]
    assert repaired.status == "not run" and repaired.numbers.startswith("the network answers at random")
    assert found["adversarial images lie in the ball and in [0, 1]"].status == "fail"
    assert found["gradients are neither zero nor non-finite"].status == "fail"


def test_white_box_attacks_are_judged_by_their_worst_case():
    one, other = ones(1000, 30), first(970)
    assert check(BLACK, white__a=one, black__b=other).status == "warn"
    assert check(BLACK, white__a=one, white__c=other, black__b=other).status == "pass"


@pytest.mark.parametrize(
    ("left", "total", "status"),
    [(0, 100, "pass"), (1, 100, "warn"), (3, 100, "warn"), (4, 100, "fail"), (9, 1000, "warn")],
)
def test_unbounded(left, total, status):
    columns = {"eps__0.1": ones(total), "eps__1.0": first(left, total)}
    found = check("an unbounded attack reaches 0 %", total=total, **columns)
    assert found.status == status
    assert f"{left} of {total}" in found.numbers and "at eps 1" in found.numbers


def test_unbounded_counts_images_that_were_right_and_measured():
    clean, right = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, torch.nan])
    results = PerImageResults({"index": torch.arange(3), "clean": clean, "eps/1.0": right})
    (found,) = (each for each in sanity_checks(results, FACTS) if each.name == "an unbounded attack reaches 0 %")
    assert found.numbers.startswith("0 of 1 ")


@pytest.mark.parametrize("kind", ["steps", "restarts"])
@pytest.mark.parametrize(("lost", "gained", "status"), [(0, 0, "pass"), (4, 0, "pass"), (5, 0, "warn"), (5, 9, "pass")])
def test_more_is_not_weaker(kind, lost, gained, status):
    index = torch.arange(1000)
    few = ones(1000, lost)
    many = 1 - ((index >= 500) & (index < 500 + gained)).double()
    assert check(f"more {kind} are not weaker", **{f"{kind}__1": few, f"{kind}__2": many}).status == status


@pytest.mark.parametrize(("gained", "status"), [(0, "pass"), (28, "pass"), (31, "warn")])
def test_the_last_increase_finds_nothing_new(gained, status):
    curve = {"steps__1": ones(1000), "steps__50": ones(1000, 400), "steps__100": ones(1000, 400 + gained)}
    found = check("more steps find nothing new", **curve)
    assert found.status == status and f"from 50 to 100 steps: {gained} of 1000" in found.numbers


@pytest.mark.parametrize(
    ("by_noise", "by_attack", "status"),
    [(0, 0, "pass"), (28, 28, "pass"), (40, 60, "warn"), (40, 300, "pass"), (110, 500, "pass"), (130, 500, "warn")],
)
def test_noise(by_noise, by_attack, status):
    found = check("noise is not an attack", noise__n=ones(1000, by_noise), white__a=ones(1000, by_attack))
    assert found.status == status


@pytest.mark.parametrize(
    ("zero", "infinite", "status"), [(0, 0, "pass"), (9, 0, "pass"), (11, 0, "warn"), (130, 0, "fail"), (0, 1, "fail")]
)
def test_gradients_are_neither_zero_nor_non_finite(zero, infinite, status):
    columns = {"probe__zero_gradient": first(zero), "probe__nonfinite_gradient": first(infinite)}
    found = check("gradients are neither zero nor non-finite", **columns)
    assert found.status == status and f"zero on {zero} of 1000" in found.numbers


@pytest.mark.parametrize(("useless", "status"), [(0, "pass"), (110, "pass"), (130, "warn")])
@pytest.mark.parametrize("value", [0.4, -5.0, torch.nan])
def test_gradients_predict(useless, status, value):
    gain = torch.where(torch.arange(1000) < useless, value, 1.0)
    found = check("gradients predict what a small step does", probe__gain=gain)
    assert found.status == status and found.numbers.endswith("median ratio 1.00")


@pytest.mark.parametrize(("flat", "status"), [(0, "pass"), (28, "pass"), (31, "warn")])
def test_the_loss_rises(flat, status):
    last = torch.where(torch.arange(1000) < flat, 0.5, 0.75)
    columns = {"loss__0": torch.full((1000,), 0.5), "loss__1": torch.zeros(1000), "loss__2": last}
    assert check("the loss rises along the attack", **columns).status == status


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("the same input gives the same output", "probe__repeatable"),
        ("an output does not depend on the rest of the batch", "probe__batch_independent"),
    ],
)
def test_one_image_whose_output_changes_is_enough(name, column):
    assert check(name, **{column: ones(1000)}).status == "pass"
    found = check(name, **{column: ones(1000, 1)})
    assert found.status == "fail" and found.numbers.startswith("it differed on 1 of 1000 (0.1 %")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("robust accuracy does not exceed clean", "repaired"),
        ("adversarial images lie in the ball and in [0, 1]", "outside"),
    ],
)
def test_one_impossible_image_is_enough_and_its_attack_is_named(name, kind):
    assert check(name, **{f"{kind}/white/PGD": first(0)}).status == "pass"
    columns = {f"{kind}/white/PGD": first(0), f"{kind}/black/Square": first(1)}
    found = check(name, **columns)
    assert found.status == "fail" and found.numbers.startswith("Square: 1 of 1000") and "PGD" not in found.numbers


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("training", "no module is in training mode", "fail"),
        ("changed", "the evaluation changed nothing in the network", "fail"),
        ("half", "no half precision on the attacked path", "warn"),
    ],
)
def test_facts_are_named(kind, name, status):
    assert check(name).status == "pass"
    found = check(name, FACTS | {kind: {"d", "b", "a", "c", "e"}})
    assert found.status == status and found.numbers == "a, b, c and 2 more"


def test_probabilities():
    assert check("outputs are logits", probe__probabilities=first(0)).status == "pass"
    assert check("outputs are logits", probe__probabilities=ones(1000)).status == "fail"


def test_checks_that_were_not_measured_are_not_run():
    results = PerImageResults({"index": torch.arange(3), "clean": torch.ones(3)})
    checks = sanity_checks(results, {})
    assert {found.status for found in checks} == {"not run"} and len(checks) == len({found.name for found in checks})
