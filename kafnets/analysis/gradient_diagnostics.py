"""Diagnostics of what attacks rely on: useful gradients, logits as outputs, and outputs that can be repeated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kafnets.attacks import Attack
from kafnets.attacks.gradient_estimators import gradient_at
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.losses import cross_entropy, margin

Net: TypeAlias = Callable[[Tensor], Tensor]

LOSS_STEPS = 10  # steps of the climb whose loss is recorded
# the step that tests a gradient is eps / 8: over 1/255 of the usual 8/255, adversarially trained nets are nearly linear
FRACTION = 8
# relative change of logits that rounding can't explain: TF32 convolutions round to 5e-4, bfloat16 to 4e-3
ROUNDING = 1e-2


def gradients(net: Net, x: Tensor, y: Tensor, attack: Attack) -> dict[str, Tensor]:
    """Whether the gradients at the images are zero or not finite, and whether they predict the effect of a small step.

    Args:
        net: images to logits.
        x: images ``(N, C, H, W)`` in [0, 1].
        y: true classes, int64 ``(N,)``.
        attack: decides norm and eps; the step is eps / 8.

    Returns:
        ``zero_gradient`` and ``nonfinite_gradient``, bool ``(N,)``, of the cross-entropy; ``gain``, float ``(N,)``:
        the change of the margin ``max_{j != y} z_j - z_y`` over one step along its gradient, divided by the change the
        gradient predicts. Where a network is locally linear the margin is convex, so that gain >= 1; a gradient that
        is unrelated to nearby values gives about 0. NaN where no change is predicted.

    Raises:
        ValueError: if no gradient reaches the images.

    Example:
        >>> from kafnets.attacks import PGD
        >>> net = lambda x: x.flatten(1) @ torch.tensor([[1.0, -1.0], [0.0, 2.0]])
        >>> found = gradients(net, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), PGD())
        >>> found["zero_gradient"].item(), round(found["gain"].item(), 3)
        (False, 1.0)
    """
    with preserve_state(net, eval_mode=True):
        x = x.detach().clone().requires_grad_(True)
        y = y.clone()
        logits = ask(net, x)
        slope = gradient_at(x, cross_entropy(logits, y), retain_graph=True)
        before = margin(logits, y)
        uphill = gradient_at(x, before)
        start = x.detach()
        moved = attack.norm.project(attack.norm.step(start, uphill, attack.eps / FRACTION), start, attack.eps)
        predicted = (uphill * (moved - start)).flatten(1).sum(1)
        with torch.no_grad():
            change = margin(ask(net, moved), y) - before
    flat = slope.flatten(1)
    return {
        "zero_gradient": (flat == 0).all(1),
        "nonfinite_gradient": ~torch.isfinite(flat).all(1),
        "gain": torch.where(predicted > 0, change.detach() / predicted, torch.nan),
    }


def loss_along(net: Net, x: Tensor, y: Tensor, attack: Attack, *, steps: int = LOSS_STEPS) -> Tensor:
    """Cross-entropy of each image along gradient steps of eps / 4 from the image itself: ``(steps + 1, N)``.

    Arguments as in :func:`gradients`; ``steps`` >= 1.

    Example:
        >>> from kafnets.attacks import PGD
        >>> net = lambda x: x.flatten(1) @ torch.tensor([[1.0, -1.0], [0.0, 2.0]])
        >>> losses = loss_along(net, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), PGD(), steps=3)
        >>> bool((losses.diff(dim=0) > 0).all())
        True
    """
    losses = []
    with preserve_state(net, eval_mode=True):
        x, y = x.detach().clone(), y.clone()
        x_adv = x
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_(True)
            loss = cross_entropy(ask(net, x_adv), y)
            uphill = gradient_at(x_adv, loss)
            losses.append(loss.detach())
            x_adv = attack.norm.project(attack.norm.step(x_adv, uphill, attack.eps / 4), x, attack.eps)
        with torch.no_grad():
            losses.append(cross_entropy(ask(net, x_adv), y))
    return torch.stack(losses)


def answers(net: Net, x: Tensor) -> dict[str, Tensor]:
    """Whether the outputs are logits and can be repeated, each bool ``(N,)``.

    Returns:
        ``probabilities``: the outputs of an image lie in [0, 1] and sum to 1. ``repeatable``: a second pass gives the
        same. ``batch_independent``: passes of the two halves of the batch give the same. Differences below 1 % of the
        largest logit count as rounding.

    Example:
        >>> found = answers(lambda x: x.flatten(1).softmax(1), torch.rand(4, 10))
        >>> {name: values.all().item() for name, values in found.items()}
        {'probabilities': True, 'repeatable': True, 'batch_independent': True}
    """
    with torch.no_grad():
        logits = ask(net, x)
        halves = torch.cat([ask(net, part) for part in x.tensor_split(2) if len(part)])
        again = ask(net, x)
    sums = (logits.sum(1) - 1).abs() < ROUNDING
    return {
        "probabilities": sums & (logits >= 0).all(1) & (logits <= 1).all(1),
        "repeatable": _same(logits, again),
        "batch_independent": _same(logits, halves),
    }


def _same(logits: Tensor, others: Tensor) -> Tensor:
    scale = logits.abs().amax(1).clamp_min(torch.finfo(logits.dtype).tiny)
    return (logits - others).abs().amax(1) <= ROUNDING * scale


class _HalfPrecision(TorchDispatchMode):
    """Records every operation that returns a half-precision tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < 4:
                self.found.add(f"{func} ({str(value.dtype).removeprefix('torch.')})")
        return result


def half_precision(net: Net, x: Tensor, y: Tensor) -> set[str]:
    """The operations of one forward and backward pass that return numbers of less than 32 bits.

    Arguments as in :func:`gradients`.

    Example:
        >>> half_precision(lambda x: x.flatten(1).half().float(), torch.rand(1, 10), torch.tensor([0]))
        {'aten._to_copy.default (float16)'}
    """
    with preserve_state(net, eval_mode=True), torch.compiler.set_stance("force_eager"), _HalfPrecision() as mode:
        x = x.detach().clone().requires_grad_(True)
        torch.autograd.grad(cross_entropy(ask(net, x), y.clone()).sum(), x, allow_unused=True)
    return mode.found


def in_training_mode(net: Net) -> set[str]:
    """The names of the modules that are in training mode.

    Example:
        >>> sorted(in_training_mode(nn.Sequential(nn.Dropout()).train()))
        ['0', 'the network']
    """
    modules = net.named_modules() if isinstance(net, nn.Module) else ()
    return {name or "the network" for name, module in modules if module.training}


@contextmanager
def watched(net: Net, changed: set[str]) -> Iterator[None]:
    """Add to ``changed`` the name of everything that the body changed: values, gradients, ``requires_grad``, modes.

    Example:
        >>> net, changed = nn.Linear(1, 1), set()
        >>> with watched(net, changed):
        ...     _ = net.bias.requires_grad_(False)
        >>> changed
        {'requires_grad of bias'}
    """
    before = _state(net)
    yield
    after = _state(net)
    changed |= {name for name in before.keys() | after.keys() if not _equal(before.get(name), after.get(name))}


def _state(net: Net) -> dict[str, Any]:
    if not isinstance(net, nn.Module):
        return {}
    state: dict[str, Any] = {f"mode of {name or 'the network'}": m.training for name, m in net.named_modules()}
    for name, parameter in net.named_parameters():
        grad = parameter.grad
        state |= {name: parameter.detach().clone(), f"requires_grad of {name}": parameter.requires_grad}
        state |= {f"gradient of {name}": None if grad is None else grad.clone()}
    return state | {name: buffer.detach().clone() for name, buffer in net.named_buffers()}


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())
    return first is second or (not isinstance(first, Tensor) and not isinstance(second, Tensor) and first == second)
