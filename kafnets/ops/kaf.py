"""The kernel activation function with little memory and derivatives of every order."""

import torch
from torch import Tensor

from kafnets.ops import reference
from kafnets.ops.compile_ops import traced_kaf
from kafnets.ops.dispatch import must_be_plain
from kafnets.ops.gaussian_sum import Weighted
from kafnets.ops.uniform_recurrence import Grid


def kaf(x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, *, grid: Grid | None = None) -> Tensor:
    """``f_c(x) = sum_i alpha[c, i] exp(-bandwidth_c (x - d_ci)^2)``, as :func:`kafnets.functional.kaf`.

    Scardapane et al., Neural Networks 110, 2019 (arXiv 1707.04035), section 3. Never holds a ``[..., D]`` tensor and
    saves only ``x`` and the small tensors. Differentiable any number of times with respect to ``x``, ``alpha``,
    ``dictionary`` and ``bandwidth``. Values: infinite ``x`` gives 0 with gradient 0, NaN gives NaN.

    Args:
        x: ``(N, C)`` or ``(N, C, *spatial)``, any floating dtype and memory layout. Arithmetic is in float32 at least.
        alpha: ``(C, D)``.
        dictionary: ``(D,)``, or ``(C, D)`` where each channel has its own.
        bandwidth: gamma > 0, ``()`` or ``(C,)``, in 1 / (units of x)^2.
        grid: the same dictionary and bandwidth, if they are fixed and evenly spaced (see :meth:`Grid.of`): a recurrence
            then replaces the D exponentials. That they agree is not checked.

    Returns:
        The shape, dtype and (channels_last or contiguous) layout of ``x``.

    Raises:
        ValueError: if ``grid`` is given for a dictionary or bandwidth that requires gradients.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> kaf(x, torch.tensor([[2.0, 1.0]]), torch.tensor([0.0, 1.0]), torch.tensor(1.0))
        tensor([[2.3679],
                [1.7358]])
    """
    if grid is not None and (dictionary.requires_grad or bandwidth.requires_grad):
        raise ValueError("grid is for a fixed dictionary and bandwidth, but one requires gradients; pass grid=None")
    if must_be_plain():
        return reference.kaf(x, alpha, dictionary, bandwidth)
    if torch.compiler.is_compiling():
        return traced_kaf(x, alpha, dictionary, bandwidth, grid)
    return Weighted.apply(None, x, alpha.unsqueeze(0), dictionary, bandwidth, grid)
