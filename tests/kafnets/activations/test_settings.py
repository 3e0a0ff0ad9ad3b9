"""Checks that numeric settings whose arithmetic float32 cannot do are refused, and that those at the ends work."""

import inspect
import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from kafnets import activations as act
from kafnets import functional

# a setting, its class, its smallest and its largest value
RANGES = [
    (act.KAF, "boundary", 1e-6, 1e6),
    (act.KAF, "bandwidth", 1e-18, 1e18),
    (act.MultiKAF, "boundary", 1e-6, 1e6),
    (act.SlopeBoundedKAF, "boundary", 1e-6, 1e6),
    (act.SlopeBoundedKAF, "limit", 1e-6, 1e6),
    (act.Spline, "boundary", 1e-6, 1e6),
    (act.LipschitzSpline, "boundary", 1e-6, 1e6),
    (act.Rational, "boundary", 1e-4, 1e4),
    (act.PSoftplus, "alpha", 1e-6, 1e6),
    (act.PSSiLU, "alpha", 1e-6, 1e6),
    (act.PSSiLU, "beta", 1e-30, 0.999),
    (act.Softplus, "beta", 1e-6, 1e6),
    (act.ELU, "alpha", 1e-6, 1e6),
    (act.LeakyReLU, "negative_slope", -1e6, 1e6),
    (act.PReLU, "init", -1e6, 1e6),
    (act.SReLU, "left_slope", -1e6, 1e6),
    (act.SReLU, "right_slope", -1e6, 1e6),
    (act.SReLU, "left_threshold", -1e6, None),
    (act.SReLU, "right_threshold", None, 1e6),
]
ENDS = [(build, name, end) for build, name, *ends in RANGES for end in ends if end is not None]
# the same for kernels and initialisations
PARTS = [
    (act.RationalQuadratic, "mixture", [1e-6, 1e3]),
    (act.Periodic, "period", [1e-6, 1e6]),
    (act.Normal, "std", [1e6]),
    (act.Ridge, "eps", [1e-15, 1e6]),
]


def documented():
    """Ranges and defaults in the table of docs/activations.md, by class and setting."""
    page = (Path(__file__).parents[3] / "docs" / "activations.md").read_text()
    table = page.partition("## Settings and their ranges")[2].partition("\n## ")[0]
    found = {}
    for row in table.splitlines():
        if row.startswith("| `"):
            names, classes, range_, default = (cell.strip() for cell in row.strip("| ").split("|"))
            for one, name in itertools.product(re.findall(r"`(\w+)`", classes), re.findall(r"`(\w+)`", names)):
                found[getattr(act, one), name] = range_, default
    return found


def test_the_documentation_states_these_ranges():
    table = documented()
    ranges = {key: re.match(r"(\S+) to ([^\s,]+)", text) for key, (text, _) in table.items()}
    stated = {key: (float(found[1]), float(found[2])) for key, found in ranges.items() if found}
    known = {(build, name): ends for build, name, *ends in RANGES} | {(part, name): ends for part, name, ends in PARTS}
    assert stated.keys() == known.keys()
    for key, ends in known.items():
        assert {end for end in ends if end is not None} <= set(stated[key]), key


def test_the_documentation_states_counts_and_defaults():
    counts = 0
    for (build, name), (text, default) in documented().items():
        if re.fullmatch(r"[\d.e-]+", default):
            assert inspect.signature(build.__init__).parameters[name].default == float(default), (build, name)
        if least := re.fullmatch(r"integer >= (\d)", text):
            counts += 1
            build(2, **{name: int(least[1])})
            with pytest.raises(ValueError, match=f"{name} must be an integer >= {least[1]}"):
                build(2, **{name: int(least[1]) - 1})
    assert counts == 7


def beyond(end):
    """Two values outside of a range that ends there: close to it, and far away."""
    direction = 1 if abs(end) > 0.9 else -1
    return [end * (1 + 1e-9 * direction), end * 10.0 ** (30 * direction)]


def is_refused(name, value, build):
    with pytest.raises(ValueError, match=rf"^{name} must be .* got {re.escape(repr(value))}[:;].* the default is"):
        build(value)


@pytest.mark.parametrize(("build", "name", "end"), ENDS)
def test_the_ends_of_a_range_have_finite_derivatives(build, name, end):
    layer = build(2, **{name: end})
    x = torch.linspace(-3, 3, 31)[:, None].repeat(1, 2)
    x = torch.cat([x, x * (end if name == "boundary" else 1), torch.full((1, 2), 1e9)]).requires_grad_()
    y = layer(x)
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(y.sum(), inputs, create_graph=True)
    found = [y, *first]
    if first[0].requires_grad:
        penalty = first[0].square().sum()
        found += torch.autograd.grad(penalty, inputs, allow_unused=True, materialize_grads=True)
    assert all(t.isfinite().all() for t in found)


@pytest.mark.parametrize(("build", "name", "end"), ENDS)
def test_values_beyond_are_refused(build, name, end):
    for value in beyond(end):
        is_refused(name, value, lambda value: build(2, **{name: value}))


@pytest.mark.parametrize(("part", "name", "ends"), PARTS)
def test_settings_of_kernels_and_initialisations(part, name, ends):
    build = (lambda eps: act.Ridge(torch.tanh, eps)) if part is act.Ridge else part
    for end in ends:
        build(end)
        for value in beyond(end):
            is_refused(name, value, build)


def test_the_reason_is_told():
    with pytest.raises(ValueError, match=r"from 1e-06 to 1e\+06, got 1e\+30: .* float32 .*; the default is 3$"):
        act.KAF(2, boundary=1e30)


def test_a_ridge_without_end_is_refused():
    with pytest.raises(ValueError, match="eps must be > 0 and finite, got inf"):
        functional.ridge(torch.linspace(-1, 1, 3), 1.0, torch.zeros(3), eps=math.inf)


@pytest.mark.parametrize("build", [act.KAF, act.MultiKAF])
def test_a_dictionary_too_dense_for_the_rule_of_the_bandwidth_is_refused(build):
    message = (
        r"bandwidth must be from 1e-18 to 1e\+18, got 1.66\d*e\+22 by the rule of Gaussian\(\) for dictionary points"
    )
    with pytest.raises(ValueError, match=message):
        build(2, boundary=1e-6, num_dict=632457)
