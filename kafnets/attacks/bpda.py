"""Attacks in which the backward passes of some modules are replaced."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from kafnets.attacks.base import Attack, Net
from kafnets.threat import ThreatModel

Substitutes: TypeAlias = Mapping[nn.Module, Callable[[Tensor], Tensor]]


@contextmanager
def replaced_backward(substitutes: Substitutes) -> Iterator[None]:
    """Inside, some modules return the same outputs, but are differentiated as if they were other functions.

    ``y = f(x)`` and ``dy/dx := dg/dx`` at ``x``, for the module f and its substitute g: the backward pass
    differentiable approximation of Athalye, Carlini, Wagner 2018 (arXiv 1802.00420, section 4.1). Afterwards,
    also after an exception, the network is as before. A compiled network runs uncompiled inside.

    Args:
        substitutes: g for each module, a function of the module's first argument that returns the shape of its
            output. A substitute that uses the module must call its ``forward``: calling the module would recurse.

    Raises:
        ValueError: (in a forward pass) if module and substitute differ in shape, or the module returns no tensor.

    Example:
        >>> net = nn.Sequential(nn.Threshold(0.5, 0.0))  # flat below 0.5
        >>> x = torch.tensor([[0.2]], requires_grad=True)
        >>> with replaced_backward({net[0]: lambda x: 2 * x}):
        ...     y = net(x)
        >>> y.item(), torch.autograd.grad(y.sum(), x)[0].item()
        (0.0, 2.0)
    """
    with ExitStack() as stack:
        for module, substitute in substitutes.items():
            replacing = _Replacing(substitute)
            # the last to see the input, and the first to see the output, which other hooks then see replaced
            stack.callback(module.register_forward_pre_hook(replacing.keep_input).remove)
            stack.callback(module.register_forward_hook(replacing.replace_output, prepend=True).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # a compiled graph does not see new hooks
        yield


class BPDA(Attack):
    """Run an attack with the backward passes of some modules replaced; see :func:`replaced_backward`.

    Images are judged on the network itself, whose outputs do not change. Use it where a module's own gradient is
    useless: a quantiser, or an activation with flat tails (:class:`kafnets.analysis.smooth_kafs.SmoothTails`).

    Args:
        attack: the attack to run; decides eps, norm, restarts and the rest.
        substitutes: maps the network to the substitutes of its modules.

    Raises:
        ValueError: (when called) if ``substitutes`` returns none.
        TypeError: (when called) if the network is a plain function, which has no modules.

    Example:
        >>> from kafnets.attacks import PGD
        >>> net = nn.Sequential(nn.Threshold(0.55, 0.0), nn.Linear(2, 2, bias=False))  # no gradient at 0.5
        >>> _ = nn.init.eye_(net[1].weight)
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> attack = PGD(eps=0.1, steps=5, step_size=0.05, random_start=False)
        >>> attack(net, x, y).tolist(), BPDA(attack=attack, substitutes=lambda net: {net[0]: lambda x: x})(net, x, y)
        ([[0.5, 0.5]], tensor([[0.4000, 0.6000]]))
    """

    def __init__(self, *, attack: Attack, substitutes: Callable[[nn.Module], Substitutes]) -> None:
        super().__init__(
            eps=attack.eps, norm=attack.norm, restarts=attack.restarts, loss=attack.loss, estimator=attack.estimator
        )
        self.attack, self.substitutes = attack, substitutes

    def for_classes(self, classes: int) -> Self:
        """With the attack for so many classes."""
        fitted = copy.copy(self)
        fitted.attack = self.attack.for_classes(classes)
        return fitted

    def within(self, threat: ThreatModel) -> Self:
        """The attack in the threat model of a run, with the same substitutes."""
        bound = copy.copy(self)
        bound.attack = self.attack.within(threat)
        bound._set_threat(bound.attack.threat)
        return bound

    def __call__(self, net: Net, x: Tensor, y: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Call the attack."""
        with self._replaced(net):
            return self.attack(net, x, y, keys=keys)

    def craft(self, net: Net, x: Tensor, target: Tensor, **options: Any) -> Tensor:
        """Craft with the attack."""
        with self._replaced(net):
            return self.attack.craft(net, x, target, **options)

    @contextmanager
    def _replaced(self, net: Net) -> Iterator[None]:
        if not isinstance(net, nn.Module):
            raise TypeError(f"BPDA replaces modules, so it takes a torch.nn.Module, got {type(net).__name__}")
        with torch.inference_mode(False):  # copies of modules must not be inference tensors
            substitutes = self.substitutes(net)
        if not substitutes:
            raise ValueError(f"{self.substitutes!r} found no module to replace in {type(net).__name__}")
        with replaced_backward(substitutes):
            yield

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One attempt of the attack, with nothing replaced; calling does that."""
        return self.attack.run(net, x, y, keys, early_stop=early_stop)

    def passes(self) -> int:
        """Those of the attack."""
        return self.attack.passes()

    def settings(self) -> dict[str, Any]:
        """Those of the attack, under ``attack_with_substitutes``, and the name of the substitutes."""
        # the repr of a function contains an address, which differs in every process
        substitutes = getattr(self.substitutes, "__qualname__", repr(self.substitutes))
        rest = {"substitutes": substitutes, "attack_with_substitutes": self.attack.settings()}
        return {**super().settings(), "attack": type(self).__name__, **rest}


class _Replace(torch.autograd.Function):
    """Returns the value of one tensor and passes the gradient to another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient_to: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class _Replacing:
    """The hooks of one module: its substitute is applied to what the module's input was before the call."""

    def __init__(self, substitute: Callable[[Tensor], Tensor]) -> None:
        self.substitute = substitute
        self.inputs: list[Tensor] = []  # a stack: a module may be called within its own call

    def keep_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # the module gets a copy: an in-place module overwrites its input
        self.inputs.append(inputs[0])
        return (inputs[0].clone(), *inputs[1:])

    def replace_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        x = self.inputs.pop()
        if not (torch.is_grad_enabled() and x.requires_grad):
            return None
        replacement = self.substitute(x)
        if not isinstance(output, Tensor) or replacement.shape != output.shape:
            raise ValueError(
                f"the substitute of {type(module).__name__} must return its shape "
                f"{tuple(getattr(output, 'shape', ()))}, got {tuple(replacement.shape)}"
            )
        return _Replace.apply(output.detach(), replacement.to(output.dtype))
