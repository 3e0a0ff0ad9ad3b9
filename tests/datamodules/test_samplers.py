import pytest
import torch

from datamodules import EvalBatches, ShuffledBatches


def shuffled(num_images, world_size, batch_size, *, seed=0, epoch=0):
    """The batches of each process in one epoch."""
    samplers = [
        ShuffledBatches(num_images, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize(("num_images", "world_size"), [(24, 1), (25, 1), (50, 2), (53, 3)])
def test_training_batches_are_full_equally_many_and_disjoint(num_images, world_size):
    ranks = shuffled(num_images, world_size, batch_size=4)
    steps = num_images // (4 * world_size)
    assert [len(batches) for batches in ranks] == [steps] * world_size
    assert all(len(batch) == 4 for batches in ranks for batch in batches)
    seen = torch.cat([batch for batches in ranks for batch in batches])
    assert len(seen.unique()) == len(seen) == 4 * steps * world_size


def test_each_step_sees_the_same_images_whatever_the_world_size():
    (one,) = shuffled(50, 1, batch_size=8)
    first, second = shuffled(50, 2, batch_size=4)
    for whole, left, right in zip(one, first, second, strict=True):
        assert torch.equal(whole.sort().values, torch.cat([left, right]).sort().values)


def test_order_is_a_function_of_seed_and_epoch():
    orders = [
        torch.cat(shuffled(40, 1, 4, seed=seed, epoch=epoch)[0]) for seed, epoch in [(0, 1), (0, 1), (0, 2), (1, 1)]
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])


def test_order_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    shuffled(40, 1, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=11 is larger than the 10 training images; use batch_size <= 10"):
        ShuffledBatches(10, batch_size=11, seed=0)
    with pytest.raises(ValueError, match=r"batch_size=6 on each of 2 processes is larger .* use batch_size <= 5"):
        ShuffledBatches(10, batch_size=6, seed=0, world_size=2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_images", [5, 11, 100, 101])
@pytest.mark.parametrize("batch_size", [2, 50, 1000])
def test_evaluation_sees_each_image_once_in_equally_many_batches(num_images, world_size, batch_size):
    samplers = [
        EvalBatches(num_images, batch_size=batch_size, rank=r, world_size=world_size) for r in range(world_size)
    ]
    ranks = [list(sampler) for sampler in samplers]
    seen = torch.cat([batch for batches in ranks for batch in batches])
    assert torch.equal(seen.sort().values, torch.arange(num_images))
    assert {len(batches) for batches in ranks} == {len(samplers[0])}
    assert all(1 <= len(batch) <= batch_size for batches in ranks for batch in batches)


def test_a_single_process_evaluates_in_order():
    assert torch.equal(torch.cat(list(EvalBatches(7, batch_size=3))), torch.arange(7))


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 500), (5, 1)])
def test_evaluation_refuses_an_empty_batch(num_images, batch_size):
    with pytest.raises(ValueError, match=f"{num_images} images cannot be spread over 2 processes"):
        EvalBatches(num_images, batch_size=batch_size, world_size=2)
