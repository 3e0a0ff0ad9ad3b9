"""Sums over the kernels of :mod:`kafnets.functional` and their first derivatives by native/kernels.cpp."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor

from kafnets import functional
from kafnets.ops.native.build import BuildError, load
from kafnets.ops.native.call import Sweep, pointer
from kafnets.ops.native.kaf import NativeSweep
from kafnets.ops.tiling import empty_dense

# the numbers that the C++ knows them by; the name of their setting and its default
BUILT_IN: dict[Callable[..., Tensor], tuple[int, str, float]] = {
    functional.laplacian: (1, "", 0.0),
    functional.matern32: (2, "", 0.0),
    functional.matern52: (3, "", 0.0),
    functional.rational_quadratic: (4, "mixture", 1.0),
    functional.periodic: (5, "period", 2 * math.pi),
    functional.triangular: (6, "", 0.0),
}
# Above it float32 would show that the C++ takes the sines of x and d apart, and not the sine of their difference.
SHARPEST_PERIODIC = 1e3


@cache
def library(march: str) -> ctypes.CDLL:
    """The compiled library.

    Raises:
        BuildError: if it cannot be built or loaded.
    """
    return load(Path(__file__).with_name("kernels.cpp"), march)


@dataclass(frozen=True)
class NamedKernel:
    """A kernel that is built in. CPU only.

    Attributes:
        number: which one.
        setting: its mixture or period; 0 if it has none.
    """

    number: int
    setting: float

    @classmethod
    def of(cls, kernel: Callable[[Tensor, Tensor], Tensor], bandwidth: Tensor) -> "NamedKernel | None":
        """The built-in form of a function of :mod:`kafnets.functional` or of its ``partial``; None for other kernels.

        None also for bandwidths for which the C++ is not exact.

        Example:
            >>> NamedKernel.of(partial(functional.rational_quadratic, mixture=2.5), torch.tensor(1.0))
            NamedKernel(number=4, setting=2.5)
            >>> NamedKernel.of(lambda t, gamma: 1 / (1 + gamma * t**2), torch.tensor(1.0)) is None
            True
        """
        function, given = (kernel.func, dict(kernel.keywords)) if isinstance(kernel, partial) else (kernel, {})
        if not isinstance(function, FunctionType) or function not in BUILT_IN:
            return None
        number, name, default = BUILT_IN[function]
        found = cls(number, given.pop(name, default))
        if given or (isinstance(kernel, partial) and kernel.args):
            return None
        smallest, largest = (float(t) for t in bandwidth.detach().aminmax())
        sharpness = largest * (found.setting / math.pi) ** 2 if name == "period" else 0
        return found if smallest > 0 and largest < math.inf and sharpness <= SHARPEST_PERIODIC else None

    def value(self, x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor) -> Tensor:
        """``sum_i alpha[c, i] k(x - d_i)`` in the shape, dtype and layout of x.

        Args:
            x: ``(N, C, *spatial)``.
            alpha: ``(C, D)``.
            dictionary: ``(D,)`` or ``(C, D)``.
            bandwidth: ``()`` or ``(C,)``.
        """
        value = empty_dense(x, x.dtype)
        self._run(x, None, alpha, dictionary, bandwidth, value=value)
        return value

    def derivatives(
        self, x: Tensor, cotangent: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, moments: int
    ) -> list[Tensor]:
        """The gradients for x, alpha, dictionary and bandwidth: for x alone, for x and alpha, or for all.

        Args:
            x: ``(N, C, *spatial)``.
            cotangent: like x.
            alpha: ``(C, D)``.
            dictionary: ``(D,)`` or ``(C, D)``.
            bandwidth: ``()`` or ``(C,)``.
            moments: 0 for the first, 1 for the first two, 2 for all.

        Returns:
            The first like x; the others in double precision, ``(C, D)``, ``(C, D)`` and ``(C,)``.
        """
        slope, (channels, size) = empty_dense(x, x.dtype), alpha.shape
        sums = torch.zeros((2 * size + 1) * channels, dtype=torch.float64, device=x.device)
        self._run(x, cotangent, alpha, dictionary, bandwidth, slope=slope, moments=sums, powers=moments)
        of_alpha, falling = sums[: 2 * size * channels].view(2, channels, size)
        found = [slope, of_alpha, -alpha * falling, sums[2 * size * channels :]]
        return found[: 4 if moments == 2 else 1 + moments]

    def _run(
        self,
        x: Tensor,
        cotangent: Tensor | None,
        alpha: Tensor,
        dictionary: Tensor,
        bandwidth: Tensor,
        *,
        value: Tensor | None = None,
        slope: Tensor | None = None,
        moments: Tensor | None = None,
        powers: int = 0,
    ) -> None:
        call = Sweep.over(x, alpha.shape[1])
        call.kernel, call.setting = self.number, self.setting
        call.powers, call.moment_powers = 1, powers
        weights = alpha.double().contiguous()
        # the memory that the pointers point to has to live until the call is over
        kept = [call.lay_out(x, cotangent, None), call.free_points(dictionary, bandwidth)]
        call.weights, call.value, call.slope, call.moments = map(pointer, (weights, value, slope, moments))
        if x.numel() and library(NativeSweep.march).kernel_sweep(ctypes.byref(call)):
            raise BuildError("native/kernels.cpp and native/kernels.py disagree on what is built in")
        del kept
