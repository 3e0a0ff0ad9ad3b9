import itertools

import pytest

from kafnets.schedules import Constant, Cosine, Exponential, Piecewise, Triangular, TriangularThenHalving, WarmUp

EVERY = [
    Constant(),
    Triangular(),
    Triangular(low=0.01, peak=0.3),
    Triangular(low=1.0),
    Exponential(),
    TriangularThenHalving(),
    TriangularThenHalving(low=0.1, tail=0.5, every=0.1),
    WarmUp(low=0.1),
    Cosine(warm_up=0.1),
    Piecewise(),
]


def sampled(schedule, epochs=100, steps=4000):
    return [schedule(epochs * i / steps, epochs) for i in range(steps + 1)]


@pytest.mark.parametrize("schedule", EVERY)
def test_multipliers_lie_between_zero_and_one(schedule):
    values = sampled(schedule)
    assert min(values) >= 0
    assert max(values) == pytest.approx(1.0, abs=1e-3)
    assert max(values) <= 1.0


def test_constant_is_one():
    assert set(sampled(Constant())) == {1.0}


@pytest.mark.parametrize(("low", "peak"), [(0.0, 0.5), (0.01, 0.5), (0.2, 0.25), (0.5, 0.9)])
def test_triangular_is_a_triangle(low, peak):
    schedule = Triangular(low=low, peak=peak)
    assert schedule(0, 30) == pytest.approx(low)
    assert schedule(30 * peak, 30) == pytest.approx(1.0)
    assert schedule(30, 30) == pytest.approx(low)
    assert schedule(30 * peak / 2, 30) == pytest.approx((1 + low) / 2)
    assert schedule(30 * (1 + peak) / 2, 30) == pytest.approx((1 + low) / 2)
    assert schedule(31, 30) == pytest.approx(low)  # past the end it stays down


@pytest.mark.parametrize("schedule", [Triangular(), Triangular(low=0.01, peak=0.3), Triangular(low=0.1, peak=0.95)])
def test_triangular_is_continuous(schedule):
    steepest = (1 - schedule.low) / min(schedule.peak, 1 - schedule.peak)
    assert max(abs(b - a) for a, b in itertools.pairwise(sampled(schedule))) <= steepest / 4000 * 1.001


def test_a_run_of_one_epoch_and_fractional_lengths():
    assert Triangular(low=0.2)(0.5, 1) == 1.0
    assert Triangular(low=0.0)(0.625, 2.5) == pytest.approx(0.5)


def test_a_cosine_rises_first_and_ends_at_its_low():
    wave = Cosine(low=0.1, warm_up=0.2)
    assert [wave(epoch, 10) for epoch in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert Cosine(warm_up=1.0)(10, 10) == 1.0


def test_the_cycle_meets_its_tail_and_halves():
    schedule = TriangularThenHalving(low=0.0125, tail=0.2, every=0.04)
    assert schedule(40, 100) == pytest.approx(1.0)
    assert schedule(79.9999, 100) == pytest.approx(0.0125, rel=1e-3)
    for epoch, halvings in ((80, 0), (83.99, 0), (84, 1), (88, 2), (92, 3), (96, 4), (99.99, 4)):
        assert schedule(epoch, 100) == 0.0125 * 0.5**halvings


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Triangular(low=-0.1), r"low must lie in \[0, 1\], got -0.1"),
        (lambda: Triangular(low=1.1), r"low must lie in \[0, 1\], got 1.1"),
        (lambda: Triangular(low=float("nan")), "low must lie in"),
        (lambda: Triangular(peak=0.0), r"peak must lie in \(0, 1\), got 0.0"),
        (lambda: Triangular(peak=1.0), r"peak must lie in \(0, 1\), got 1.0"),
        (lambda: TriangularThenHalving(low=2.0), "low must lie in"),
        (lambda: TriangularThenHalving(tail=20), r"tail must lie in \(0, 1\), got 20"),
        (lambda: TriangularThenHalving(tail=float("nan")), "tail must lie in"),
        (lambda: WarmUp(until=0), r"until must lie in \(0, 1\), got 0"),
        (lambda: Cosine(warm_up=1.5), r"warm_up must lie in \[0, 1\], got 1.5"),
        (lambda: Piecewise(milestones=[0.7, 0.5]), r"milestones must ascend, got \[0.7, 0.5\]"),
        (lambda: Piecewise(factor=1), r"factor must lie in \(0, 1\), got 1"),
        (lambda: TriangularThenHalving(every=0), r"every must lie in \(0, 1\), got 0"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()
