import pytest
import torch
from tiny_images import labelled

from datamodules import interleave, stratified_split
from datamodules.seeding import keyed_generator


def test_interleave_is_a_seeded_permutation():
    labels = labelled([30, 30, 30])
    order = interleave(labels, keyed_generator(0))
    assert torch.equal(order.sort().values, torch.arange(90))
    assert torch.equal(order, interleave(labels, keyed_generator(0)))
    assert not torch.equal(order, interleave(labels, keyed_generator(1)))


def test_every_prefix_of_equal_classes_is_balanced():
    labels = labelled([25] * 4)
    order = interleave(labels, keyed_generator(0))
    for k in range(1, 101):
        counts = torch.bincount(labels[order[:k]], minlength=4)
        assert int(counts.max() - counts.min()) <= 1


def test_no_class_is_always_first():
    labels = labelled([50] * 4)
    first_of_four = labels[interleave(labels, keyed_generator(0))][::4]
    assert set(first_of_four.tolist()) == {0, 1, 2, 3}


def test_prefixes_of_unequal_classes_are_in_proportion():
    counts = torch.tensor([80, 40, 20])
    labels = labelled(counts.tolist())
    order = interleave(labels, keyed_generator(0))
    for k in range(1, 141):
        expected = counts * k / 140
        assert (torch.bincount(labels[order[:k]], minlength=3) - expected).abs().max() <= 1.5


def test_split_is_stratified_disjoint_and_complete():
    labels = labelled([50, 100, 10])
    rest, held_out = stratified_split(labels, 0.1, keyed_generator(0))
    assert torch.bincount(labels[held_out]).tolist() == [5, 10, 1]
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(160))
    assert torch.equal(rest, rest.sort().values)


def test_split_depends_on_the_seed_alone():
    labels = labelled([50, 50])
    first, again, other = (stratified_split(labels, 0.2, keyed_generator(seed))[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort().values, other.sort().values)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_split_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {fraction}"):
        stratified_split(labelled([5, 5]), fraction, keyed_generator(0))


@pytest.mark.parametrize(("fraction", "part"), [(0.05, "held-out part"), (0.95, "rest")])
def test_split_refuses_to_leave_a_class_out(fraction, part):
    with pytest.raises(ValueError, match=rf"leaves the {part} without an image of class \d"):
        stratified_split(labelled([5, 5, 5]), fraction, keyed_generator(0))


def test_keys_of_different_lengths_do_not_collide():
    draws = {float(torch.rand((), generator=keyed_generator(*key))) for key in [(5,), (5, 0), (0, 5), ("5",), (50,)]}
    assert len(draws) == 5
