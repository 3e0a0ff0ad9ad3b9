"""Any elementwise module of PyTorch as an activation."""

import copy
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from kafnets.activations.base import Activation


class FromModule(Activation):
    """A module that keeps the shape of its input, such as ``torch.nn.Mish()``, with the interface of an activation.

    Args:
        num_channels: channels of the input.
        module: the module, which is copied: each place of a network has its own.
        pointwise: whether each output value depends on one input value only, which :meth:`gaussian_moments` and
            :meth:`plot` rely on.

    Shapes:
        ``(N, C, *spatial)`` to the same.

    Raises:
        TypeError: if ``module`` is no module.
        ValueError: if the module changes its input in place, or (when called) if it changes the shape.

    Example:
        >>> import torch
        >>> FromModule(2, module=nn.Hardswish())(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.3333,  1.6667]])
    """

    def __init__(self, num_channels: int, *, module: nn.Module, pointwise: bool = True) -> None:
        super().__init__(num_channels)
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a module such as torch.nn.Mish(), got {module!r}")
        if any(getattr(part, "inplace", False) for part in module.modules()):
            raise ValueError(
                f"an activation must not change its input, but {module!r} does; build it with inplace=False"
            )
        self.module, self.pointwise = copy.deepcopy(module), pointwise

    @property
    def label(self) -> str:
        """The name of the module's class, with its settings: ``Hardtanh(min_val=-1.0, max_val=1.0)``."""
        name, settings = type(self.module).__name__, self.module.extra_repr()
        return f"{name}({settings})" if settings else name

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        y = self.module(self.check(x))
        if y.shape != x.shape:
            raise ValueError(
                f"an activation keeps the shape, but {self.label} made {tuple(y.shape)} of {tuple(x.shape)}"
            )
        return y


def from_module(
    module: nn.Module | Callable[[int], nn.Module], *, pointwise: bool = True
) -> Callable[[int], FromModule]:
    """A factory of activations for a network, out of a module of PyTorch, or a function that builds one.

    Args:
        module: the module, copied for each place of a network; or a function from the number of channels to a module.
        pointwise: see :class:`FromModule`.

    Raises:
        TypeError: if ``module`` is a class, whose first argument need not be the number of channels: ``torch.nn.ELU``
            would read it as alpha.

    Example:
        >>> from_module(nn.Mish())(16).label
        'Mish'
        >>> from_module(lambda channels: nn.PReLU(channels))(16).num_parameters
        16
    """
    if isinstance(module, nn.Module):
        return partial(FromModule, module=module, pointwise=pointwise)
    if isinstance(module, type) or not callable(module):
        advice = f"; pass {module.__name__}(...)" if isinstance(module, type) else ""
        raise TypeError(
            "module must be a module such as torch.nn.Mish(), or a function from the number of channels to one, got "
            f"{module!r}{advice}"
        )
    return lambda num_channels: FromModule(num_channels, module=module(num_channels), pointwise=pointwise)
