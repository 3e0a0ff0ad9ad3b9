"""Every activation, with the settings that take another path through the code."""

import functools

import pytest
import torch

from kafnets import activations as act

KERNELS = [act.Laplacian, act.Matern52, act.Periodic, act.TriangularKernel]
CLASSES = {name: getattr(act, name) for name in act.__all__ if isinstance(getattr(act, name), type)}
BUILDERS = {
    **{name: c for name, c in CLASSES.items() if issubclass(c, act.Activation)},
    **{f"KAF {kernel.__name__}": functools.partial(act.KAF, kernel=kernel()) for kernel in KERNELS},
    "KAF free": functools.partial(act.KAF, free=True),
    "KAF free Matern52": functools.partial(act.KAF, kernel=act.Matern52(), free=True),
    "KAF free groups": functools.partial(act.KAF, groups=1, free=True),
    "Maxout pointwise": functools.partial(act.Maxout, groups=4),
    "LipschitzSpline unscaled": functools.partial(act.LipschitzSpline, scaled=False),
    "FromModule": act.from_module(torch.nn.Tanh()),
}
del BUILDERS["Activation"], BUILDERS["Swish"]  # the base class, and another name of SiLU


@pytest.fixture(params=BUILDERS)
def layer(request):
    """An activation of 4 channels whose parameters have moved away from their initial values, in float64."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # not .double(): a grid rounded to float32 is not quite even
    try:
        layer = BUILDERS[request.param](4)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        yield layer
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def x():
    return 1.5 * torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
