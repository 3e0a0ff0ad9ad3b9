"""Suggestions for misspelt names on the command line."""

import importlib
import inspect
import re
from collections.abc import Iterable
from difflib import get_close_matches

# packages whose public classes and functions a configuration may name
_PACKAGES = (
    "kafnets.activations",
    "kafnets.attacks",
    "kafnets.backbones",
    "kafnets.losses",
    "kafnets.objectives",
    "kafnets.schedules",
    "kafnets.threat",
    "datamodules",
    "lightning_modules",
    "lightning_modules.callbacks",
    "kafnets.parameter_filters",
    "torch.optim",
)
# arguments that the caller supplies: channels of an activation, parameters of an optimizer
_SUPPLIED = {"num_channels", "params"}


def closest(name: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return up to three names that are similar to ``name``, the most similar first; upper and lower case are equal.

    Only the last part of a dotted name is compared, and a name that differs only in case is returned alone.

    Args:
        name: the misspelt name.
        names: the names to choose from.
        cutoff: the least similarity, in [0, 1].

    Example:
        >>> closest("l2", ["L1", "L2", "Linf"]), closest("step", ["steps", "step_size", "eps"])
        (['L2'], ['steps', 'step_size'])
    """
    known = {one.rpartition(".")[2].lower(): one for one in names}
    if name.lower() in known:
        return [known[name.lower()]]
    return [known[one] for one in get_close_matches(name.lower(), known, cutoff=cutoff)]


def suggestion(message: str, owner: str, keys: Iterable[str]) -> str:
    """Return the end of an error message: similar names, or the accepted ones if none is similar; often empty.

    Args:
        message: the error message.
        owner: dotted path of the class that the message is about; may be empty.
        keys: the keys of the parser.
    """
    near: list[str] = []
    if name := re.search(r"'(\w+)' is neither a known class nor a dotted path", message):
        near = closest(name[1], _public_names())
    elif option := re.search(r"Option '([^']+)' is not accepted", message):
        accepted = _options(owner)
        near = closest(option[1].rpartition(".")[2], accepted, cutoff=0.7)
        if accepted and not near:
            return f"; {owner.rpartition('.')[2]} accepts {', '.join(sorted(accepted))}"
    elif member := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        near = [f"{member[1]}.{name}" for name in closest(member[2], _members(member[1]))]
    elif key := re.search(r"(?:does not accept option '|nrecognized arguments: --)([\w.]+)", message):
        near = get_close_matches(key[1], list(keys), cutoff=0.8)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _public_names() -> list[str]:
    """The names of classes and the dotted paths of functions."""
    names = []
    for package in _PACKAGES:
        for name, value in _members(package).items():
            names.append(name if inspect.isclass(value) else f"{package}.{name}")
    return names


def _members(module: str) -> dict[str, object]:
    """Public classes and functions of a module that the module or its submodules define."""
    return {
        name: value
        for name, value in vars(importlib.import_module(module)).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and not name.startswith("_")
        and f"{value.__module__}.".startswith(f"{module.partition('.')[0]}.")
    }


def _options(class_path: str) -> list[str]:
    """The names of the arguments of a class, and of its bases as far as it passes ``**kwargs`` on to them."""
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return []
    names = []
    for base in found.__mro__:
        parameters = inspect.signature(base).parameters.values()
        names += [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
        if not any(one.kind == one.VAR_KEYWORD for one in parameters):
            break
    return [name for name in dict.fromkeys(names) if name not in _SUPPLIED]
