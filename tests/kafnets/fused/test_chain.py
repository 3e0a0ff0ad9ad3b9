"""Chains of convolutions against PyTorch in double precision."""

import dataclasses
import math
import platform

import pytest
import torch

from kafnets.fused.chain import ConvChain
from kafnets.fused.native import library, memory, plan
from kafnets.fused.step import ConvStep
from kafnets.ops import dispatch

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)

# in, out, size, stride, padding, height, width
CONVOLUTIONS = {
    "winograd": (16, 16, 3, 1, (1, 1), 8, 8),
    "winograd, tiles cut off": (32, 16, 3, 1, (1, 1), 5, 7),
    "winograd, many blocks": (16, 48, 3, 1, (1, 1), 33, 30),
    "winograd, many channels": (512, 512, 3, 1, (1, 1), 4, 4),
    "winograd, a pixel": (16, 16, 3, 1, (1, 1), 1, 1),
    "winograd, gradient only": (3, 16, 3, 1, (1, 1), 9, 8),
    "stride 2 as TensorFlow pads": (16, 32, 3, 2, (0, 1), 8, 8),
    "stride 2": (16, 32, 3, 2, (1, 1), 9, 7),
    "stride 2, tiles cut off": (32, 48, 3, 2, (1, 1), 21, 18),
    "stride 2, tiles cut off, as TensorFlow pads": (32, 48, 3, 2, (0, 1), 18, 21),
    "stride 2, many blocks": (32, 64, 3, 2, (1, 1), 66, 60),
    "stride 2, many channels": (256, 128, 3, 2, (0, 1), 6, 6),
    "stride 2, a pixel": (16, 16, 3, 2, (1, 1), 1, 1),
    "stride 2, gradient only": (3, 16, 3, 2, (0, 1), 9, 8),
    "stride 2, zeros below alone": (16, 16, 3, 2, (0, 2), 7, 6),
    "stride 2, zeros above without Winograd": (16, 16, 3, 2, (2, 0), 7, 6),
    "5x5, stride 2": (16, 32, 5, 2, (2, 2), 9, 8),
    "stride 3": (16, 16, 3, 3, (1, 1), 11, 10),
    "1x1": (16, 32, 1, 1, (0, 0), 5, 6),
    "1x1, stride 2": (16, 32, 1, 2, (0, 0), 8, 6),
    "narrower than its padding": (16, 16, 1, 6, (2, 2), 6, 2),
    "5x5": (16, 16, 5, 1, (2, 2), 9, 9),
    "7x7, stride 2": (3, 64, 7, 2, (3, 3), 15, 12),
    "odd channels": (5, 16, 3, 2, (1, 0), 9, 8),
    "odd channels, more than a vector": (21, 32, 3, 1, (1, 1), 9, 8),
    "odd channels, more than a vector, stride 2": (35, 16, 3, 2, (1, 1), 9, 8),
    "no padding": (16, 16, 3, 1, (0, 0), 7, 6),
}


def whole(*shape, scale=3):
    """Whole numbers, whose sums of products are exact; with a half added, none is near the kink of ReLU."""
    return torch.randint(-scale, scale + 1, shape).float()


def steps_of(name, *, folded):
    inputs, outputs, size, stride, padding, height, width = CONVOLUTIONS[name]
    step = ConvStep(0, whole(outputs, inputs, size, size), stride, padding)
    if not folded:
        return [step], [whole(5, inputs, height, width)]
    scale, skip_scale = (torch.tensor([1.0, 2.0, -1.0, 4.0]).repeat(outputs // 4) for _ in range(2))
    shift = whole(outputs) + 0.5
    step = ConvStep(0, step.filters, stride, padding, scale, shift, skip=1, skip_scale=skip_scale, relu=True)
    skip = whole(5, outputs, step.size(height), step.size(width))
    return [step], [whole(5, inputs, height, width), skip]


def in_double(steps):
    def double(value):
        return value.double() if isinstance(value, torch.Tensor) else value

    return [ConvStep(**{name: double(value) for name, value in vars(step).items()}) for step in steps]


def gradients(run, inputs, weights):
    leaves = [x.detach().requires_grad_(True) for x in inputs]
    y = run(leaves)
    return y.detach(), torch.autograd.grad((y * weights.to(y.dtype)).sum(), leaves)


def agrees(steps, inputs, tolerance=3e-6):
    chain = ConvChain(len(inputs), steps)
    exact = ConvChain(len(inputs), steps)
    exact.steps = in_double(steps)
    with torch.no_grad():
        weights = torch.randn_like(chain(*inputs))
    y, grads = gradients(lambda x: chain(*x), inputs, weights)
    expected, expected_grads = gradients(exact.plain, [x.double() for x in inputs], weights)
    with torch.no_grad():
        assert torch.equal(chain(*inputs), y)
    for found, wanted in zip((y, *grads), (expected, *expected_grads), strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= tolerance * max(wanted.abs().max(), 1e-30)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_step_agrees_with_pytorch_in_double_precision(name, folded):
    torch.manual_seed(0)
    agrees(*steps_of(name, folded=folded))


@pytest.mark.parametrize("name", ["winograd", "winograd, gradient only", "stride 2", "odd channels", "5x5"])
def test_the_mean_is_subtracted_from_pixels_but_not_from_the_padding(name):
    torch.manual_seed(0)
    (step,), (x, skip) = steps_of(name, folded=True)
    steps = [dataclasses.replace(step, mean=whole(x.shape[1]) + 0.25)]
    agrees(steps, [x, skip])
    agrees(steps, [library.channels_last(x), skip])


def residual_chain():
    """Blocks, the first of which halves the image on two paths, and a step that reads a value a second time."""
    torch.manual_seed(0)

    def step(source, inputs, **settings):
        return ConvStep(source, torch.randn(32, inputs, 3, 3) / (9 * inputs) ** 0.5, shift=torch.randn(32), **settings)

    shrink = {"stride": 2, "padding": (0, 1)}
    steps = [
        step(0, 16, relu=True, **shrink),  # 2
        step(0, 16, **shrink),  # 3
        step(2, 32, skip=3, skip_scale=torch.rand(32), relu=True),  # 4
        step(4, 32, relu=True),  # 5
        step(5, 32, skip=4, relu=True),  # 6
        step(6, 32, scale=torch.rand(32)),  # 7
        step(7, 32, skip=6, skip_scale=-torch.rand(32)),  # 8
        step(4, 32, skip=8),  # 9
        step(9, 32, skip=1, relu=True),
    ]
    return steps, [torch.randn(7, 16, 12, 10), torch.randn(7, 32, 6, 5)]


def far_from_kinks(source, inputs, outputs, stride=1, *, skip=None, **settings):
    """About three ones and minus ones per output, and shifts finer than the values before: no sum is near zero.

    Among millions of random sums, some would be so close to zero that rounding would change their sign.
    """
    filters = whole(outputs, inputs, 3, 3, scale=1) * (torch.rand(outputs, inputs, 3, 3) < 0.5 / inputs)
    shift = (2 * whole(outputs) + 1) * 0.5 ** (1 + max(source, skip or 0))
    return ConvStep(source, filters, stride, shift=shift, skip=skip, **settings)


def pyramid():
    """Images that are halved three times, more than a group of them, and values that steps of another size read."""
    torch.manual_seed(0)

    def step(source, inputs, outputs, stride=1, *, relu=True, **settings):
        scale = torch.tensor([1.0, -1.0, 2.0, -2.0]).repeat(outputs // 4)
        return far_from_kinks(source, inputs, outputs, stride, skip_scale=scale, relu=relu, **settings)

    steps = [
        step(0, 3, 16),  # 1
        step(1, 16, 16),  # 2
        step(2, 16, 32, 2, relu=False),  # 3
        step(2, 16, 32, 2, skip=3, relu=False),  # 4
        step(4, 32, 32, skip=4),  # 5
        step(5, 32, 16, 2),  # 6
        step(5, 32, 16, 2, skip=6),  # 7
        step(7, 16, 16, 2),
    ]
    return steps, [whole(70, 3, 32, 24)]


@pytest.mark.parametrize("chain", [residual_chain, pyramid])
def test_a_chain_with_skips_agrees_with_pytorch_in_double_precision(chain):
    agrees(*chain())


def twins():
    """Pairs of convolutions of one value, with strides 1 and 2."""
    torch.manual_seed(0)
    step = far_from_kinks
    steps = [
        step(0, 16, 16),  # 1
        step(0, 16, 16, skip=1, relu=True),  # 2
        step(2, 16, 32, 2),  # 3
        step(2, 16, 32, 2, relu=True),  # 4
        step(4, 32, 32, skip=3),  # 5
        step(4, 32, 32, skip=5, scale=whole(32), relu=True),  # 6
        step(6, 32, 16),
    ]
    return steps, [whole(40, 16, 36, 28)]


@pytest.mark.parametrize("chain", [residual_chain, twins])
def test_joined_steps_are_as_exact_as_separate_ones(chain, monkeypatch):
    def joined(steps, inputs):
        plans = ConvChain(len(inputs), steps)._plans_for(inputs)
        return [sum(step.joined for step in plan.steps) for plan in (plans.forward, plans.backward)]

    steps, inputs = chain()
    assert min(joined(steps, inputs)) > 0
    agrees(steps, inputs)
    with torch.no_grad():
        found = ConvChain(len(inputs), steps)(*inputs)
        monkeypatch.setattr(plan, "_joined", lambda shapes, steps: list(steps))
        assert joined(steps, inputs) == [0, 0]
        assert torch.equal(ConvChain(len(inputs), steps)(*inputs), found)


def test_groups_shrink_until_their_values_fit_into_the_memory_limit(monkeypatch):
    steps, inputs = pyramid()
    sizes = {}
    for most in (memory.GROUP_FLOATS, 200_000, 1):
        monkeypatch.setattr(memory, "GROUP_FLOATS", most)
        chain = ConvChain(1, steps)
        y = chain(*inputs)
        found = chain._plans_for(inputs).forward.memory
        sizes[most] = (found.group, found.size, y)
    (groups, floats, outputs) = zip(*sizes.values(), strict=True)
    assert groups[0] > groups[1] > groups[2] == 1 and floats[0] > floats[1] > floats[2]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("chain", [residual_chain, pyramid, twins])
def test_neither_batch_size_nor_threads_change_a_bit(chain):
    steps, inputs = chain()
    chain, threads = ConvChain(len(inputs), steps), torch.get_num_threads()
    with torch.no_grad():
        weights = torch.randn_like(chain(*inputs))
    every = gradients(lambda x: chain(*x), inputs, weights)
    try:
        torch.set_num_threads(3)
        threaded = gradients(lambda x: chain(*x), inputs, weights)
    finally:
        torch.set_num_threads(threads)
    single = gradients(lambda x: chain(*x), [x[3:4] for x in inputs], weights[3:4])
    for a, b, c in zip((every[0], *every[1]), (threaded[0], *threaded[1]), (single[0], *single[1]), strict=True):
        assert torch.equal(a, b) and torch.equal(a[3:4], c)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
def test_inputs_that_are_not_finite_give_the_results_of_pytorch(value):
    steps, inputs = residual_chain()
    chain = ConvChain(2, steps)
    inputs[0][2, 5, 3, 4] = value
    with torch.no_grad():
        assert torch.equal(chain(*inputs).nan_to_num(), chain.plain(inputs).nan_to_num())
    weights = torch.randn(7, 32, 6, 5)
    found, expected = (gradients(run, inputs, weights)[1] for run in (lambda x: chain(*x), chain.plain))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_constants_of_any_strides():
    torch.manual_seed(0)
    steps, inputs = steps_of("stride 2", folded=True)
    laid = {name: torch.stack([getattr(steps[0], name)] * 3, 1)[:, 1] for name in ("scale", "shift", "skip_scale")}
    agrees([dataclasses.replace(steps[0], **laid)], inputs)
    agrees([dataclasses.replace(steps[0], shift=torch.tensor(0.5).expand(32))], inputs)


def test_images_of_any_strides():
    steps, (x,) = pyramid()
    chain, weights = ConvChain(1, steps), torch.randn(70, 16, 4, 3)
    planes = gradients(lambda x: chain(*x), [x], weights)
    for laid in (x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        found = gradients(lambda x: chain(*x), [laid], weights)
        assert torch.equal(found[0], planes[0]) and torch.equal(found[1][0], planes[1][0])
    assert planes[1][0].is_contiguous()


def test_inputs_of_one_chain_with_different_strides():
    torch.manual_seed(0)
    steps = [ConvStep(0, torch.randn(16, 3, 3, 3)), ConvStep(1, torch.randn(16, 3, 3, 3), skip=2)]
    a, b = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    assert any(step.joined for step in ConvChain(2, steps)._plans_for([a, b]).backward.steps)
    agrees(steps, [a, library.channels_last(b)])
    agrees(steps, [library.channels_last(a), b])


def test_nan_and_its_gradient_pass_relu_without_winograd():
    torch.manual_seed(0)
    chain, x = ConvChain(1, [ConvStep(0, whole(16, 16, 5, 5), 2, (2, 2), relu=True)]), whole(2, 16, 8, 8)
    x[1, 3, 4, 4] = math.nan
    found, expected = (gradients(run, [x], torch.ones(2, 16, 4, 4)) for run in (lambda x: chain(*x), chain.plain))
    assert found[0].isnan().any() and expected[1][0][1, :, 4, 4].any()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_not_finite_gives_the_results_of_pytorch():
    steps, inputs = residual_chain()
    chain, weights = ConvChain(2, steps), torch.zeros(7, 32, 6, 5)
    weights[1, 2, 3, 4] = math.inf
    found, expected = (gradients(run, inputs, weights)[1] for run in (lambda x: chain(*x), chain.plain))
    assert not expected[0].isfinite().all()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30, 1e35])
def test_small_and_large_numbers(scale):
    steps, inputs = steps_of("winograd", folded=False)
    agrees(steps, [x * scale for x in inputs], tolerance=1e-5 if scale > 1e-38 else 1e-3)


def test_relu_at_zero_passes_no_gradient():
    x = torch.zeros(1, 16, 4, 4, requires_grad=True)
    ConvChain(1, [ConvStep(0, torch.ones(16, 16, 3, 3), relu=True)])(x).sum().backward()
    assert not x.grad.any()


def test_no_images():
    steps, inputs = residual_chain()
    assert ConvChain(2, steps)(*(x[:0] for x in inputs)).shape == (0, 32, 6, 5)


def test_images_of_alternating_sizes():
    steps, inputs = steps_of("winograd", folded=False)
    chain = ConvChain(1, steps)
    small, large = inputs[0], whole(2, 16, 20, 12)
    first = chain(small)
    torch.testing.assert_close(chain(large), chain.plain([large]), rtol=0, atol=1e-3)
    assert torch.equal(chain(small), first)


def test_inputs_that_do_not_fit_are_refused():
    steps, (x, skip) = residual_chain()
    chain = ConvChain(2, steps)
    for wrong in ([x.double(), skip], [x[:3], skip], [x[0], skip], [x, skip[:, :, :1, :1]], [x[:, :5], skip]):
        with pytest.raises(ValueError, match=r"takes float32|do not fit"):
            chain(*wrong)


def test_second_derivatives_are_refused():
    steps, inputs = steps_of("winograd", folded=False)
    x = inputs[0].requires_grad_(True)
    (grad,) = torch.autograd.grad(ConvChain(1, steps)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("march", ["x86-64-v3", "x86-64"])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_older_processors(name, folded, march, monkeypatch):
    if platform.machine() != "x86_64":
        pytest.skip("x86-64 is needed")
    older = library.conv_library(march)
    monkeypatch.setattr(library, "conv_library", lambda: older)
    torch.manual_seed(0)
    agrees(*steps_of(name, folded=folded), tolerance=5e-6)  # without fused multiply-adds, sums round twice as often
