import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from kafnets.metrics import RobustAccuracy, wilson_interval


def random_logits(n, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    clean = torch.randn(n, classes, generator=generator) + 2 * torch.eye(classes)[y]
    adv = torch.randn(n, classes, generator=generator) + torch.eye(classes)[y]
    return clean, adv, y


def by_hand(clean, adv, y):
    """The two accuracies with loops and Python's own numbers."""
    right = {"clean": 0, "robust": 0}
    for c, a, label in zip(clean.tolist(), adv.tolist(), y.tolist(), strict=True):
        fine = c.index(max(c)) == label
        right["clean"] += fine
        right["robust"] += fine and a.index(max(a)) == label
    return right


def counted(*batches):
    metric = RobustAccuracy()
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


def test_four_images_by_hand():
    clean = torch.eye(2)[[0, 0, 1, 1]]
    adv = torch.eye(2)[[0, 1, 0, 1]]
    found = counted((clean, adv, torch.tensor([0, 0, 0, 0])))
    # clean/attacked: right/right, right/wrong, wrong/right, wrong/wrong; only the first counts as robust
    assert (found["clean"], found["robust"], found["images"]) == (0.5, 0.25, 4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 7, 100, 333])
def test_agrees_with_a_loop_for_any_batch_size(size, seed):
    clean, adv, y = data = random_logits(333, seed=seed)
    right = by_hand(*data)
    found = counted(*zip(clean.split(size), adv.split(size), y.split(size), strict=True))
    for name in ("clean", "robust"):
        expected = (right[name] / 333, *wilson_interval(right[name], 333))
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(expected)
    assert found["images"] == 333
    assert found["robust"] <= found["clean"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_wrong(value):
    good = torch.eye(2)
    bad = good.clone()
    bad[0, 0] = value
    y = torch.tensor([0, 1])
    assert counted((bad, good, y))["clean"] == counted((bad, good, y))["robust"] == 0.5
    assert counted((good, bad, y))["clean"] == 1.0
    assert counted((good, bad, y))["robust"] == 0.5


def test_without_images_accuracies_are_nan_also_after_a_reset():
    metric = RobustAccuracy()
    metric.update(*random_logits(10))
    metric.reset()
    metric.update(*(part[:0] for part in random_logits(1)))
    found = metric.compute()
    assert found["images"] == 0
    assert found["clean"].isnan()
    assert found["robust"].isnan()
    assert (found["robust_low"], found["robust_high"]) == (0, 1)


def test_empty_batches_count_nothing():
    empty = tuple(part[:0] for part in random_logits(3))
    data = random_logits(20)
    assert counted(empty, data, empty) == counted(data)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 2), (3, 2), (2,)),
        ((3, 2), (2, 2), (3,)),
        ((3, 2), (3, 4), (3,)),
        ((3,), (3,), (3,)),
        ((3, 2), (3, 2), (3, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    clean, adv, y = shapes
    with pytest.raises(ValueError, match=r"must be \(N, classes\) and y \(N,\), got"):
        RobustAccuracy().update(torch.zeros(clean), torch.zeros(adv), torch.zeros(y, dtype=torch.long))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0.0, 1.0, 1.0]), "y must be int64.*got torch.float32"),
        (torch.tensor([0, 1, 4]), r"labels must lie in \[0, 3\] for 4 classes, got 0 to 4"),
        (torch.tensor([0, -1, 3]), r"labels must lie in \[0, 3\] for 4 classes, got -1 to 3"),
    ],
)
def test_labels_that_are_no_classes_are_refused(y, message):
    metric = RobustAccuracy()
    with pytest.raises(ValueError, match=message):
        metric.update(torch.eye(4)[:3], torch.eye(4)[:3], y)
    assert metric.total == 0


def test_states_summed_over_uneven_ranks_equal_one_process():
    data = random_logits(11)
    ranks = [tuple(part[chosen] for part in data) for chosen in (slice(0, 8), slice(8, 11), slice(11, 11))]
    merged, states = RobustAccuracy(), []
    for rank in ranks:
        metric = RobustAccuracy()
        metric.update(*rank)
        states.append(metric)
    merged.update(*(part[:0] for part in data))
    for name, reduction in merged._reductions.items():
        setattr(merged, name, reduction(torch.stack([getattr(state, name) for state in states])))
    assert {name: value.item() for name, value in merged.compute().items()} == counted(data)


def one_rank(rank, folder):
    """Count the share of this rank, 8 or 3 of 11 images, and return the metric of both ranks."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        chosen = slice(0, 8) if rank == 0 else slice(8, 11)
        return counted(tuple(part[chosen] for part in random_logits(11)))
    finally:
        dist.destroy_process_group()


def test_two_processes_with_uneven_shares_equal_one(tmp_path):
    code = "import sys, runpy; print(runpy.run_path(sys.argv[1])['one_rank'](1, sys.argv[2]))"
    other = subprocess.Popen(
        [sys.executable, "-c", code, __file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    here = one_rank(0, tmp_path)
    assert here == counted(random_logits(11))
    assert other.communicate(timeout=120)[0].strip() == str(here)
