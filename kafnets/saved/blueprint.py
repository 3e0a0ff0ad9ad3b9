"""A network as plain data: the names of its classes and functions, and their arguments.

A blueprint is a value of JSON. Numbers, text, booleans, null and lists stand for themselves; an object is one of

- ``{"class": NAME, "arguments": {...}}``: an instance;
- ``{"factory": NAME, "arguments": {...}}``: the class with these arguments, called later with the missing ones, as
  networks call an activation with its number of channels;
- ``{"function": NAME}``: the function itself.

A name is looked up in a table, never imported: building from a file that somebody else wrote runs no code of theirs.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch

import kafnets.functional
from kafnets import activations, backbones
from kafnets.backbones.resnet import Shortcut

Known: TypeAlias = dict[str, Callable[..., Any]]

_KINDS = (backbones.Backbone, Shortcut, activations.Activation, activations.Kernel, activations.KAFInit)
_FUNCTIONS = ("torch.nn.functional", torch.nn.functional), ("kafnets.functional", kafnets.functional)


def build(blueprint: Any, own: Iterable[Callable[..., Any]] = ()) -> Any:
    """Build what a blueprint describes.

    Args:
        blueprint: see the text above.
        own: classes and functions of yours that it may name, beside those of kafnets and ``torch.nn.functional``.

    Raises:
        ValueError: if it names anything else, is no blueprint, or its arguments do not fit.

    Example:
        >>> build({"class": "Ridge", "arguments": {"target": {"function": "torch.nn.functional.elu"}}})
        Ridge(elu, eps=1e-06)
        >>> build({"factory": "KWTA", "arguments": {"ratio": 0.5}})(8)
        KWTA(8, ratio=0.5)
        >>> build({"class": "os.system", "arguments": {}})
        Traceback (most recent call last):
        ValueError: os.system is not one of kafnets; if it is yours, import it and pass own=[system]
    """
    return _build(blueprint, _classes() | {_path(each): each for each in own})


def name_of(value: Callable[..., Any], own: Iterable[str] = ()) -> str:
    """Return the name of a class or a function in blueprints.

    Args:
        value: the class or function.
        own: top-level packages of yours, whose classes and functions have their full path as their name.

    Raises:
        ValueError: if it is neither of kafnets nor of ``torch.nn.functional`` nor of ``own``.

    Example:
        >>> name_of(activations.KAF), name_of(torch.nn.functional.silu)
        ('KAF', 'torch.nn.functional.silu')
    """
    for name, known in _classes().items():
        if known is value:
            return name
    for path, module in _FUNCTIONS:
        name = getattr(value, "__name__", "")
        if inspect.isroutine(value) and getattr(module, name, None) is value:
            return f"{path}.{name}"
    if _path(value).partition(".")[0] in set(own):
        return _path(value)
    raise ValueError(f"{_path(value)} is not public in kafnets.backbones or kafnets.activations, so it has no name")


def _classes() -> Known:
    """The public classes of which networks consist, by name."""
    public = {name: getattr(room, name) for room in (backbones, activations) for name in room.__all__}
    return {name: value for name, value in public.items() if inspect.isclass(value) and issubclass(value, _KINDS)}


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _build(value: Any, known: Known) -> Any:
    if isinstance(value, list):
        return [_build(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    keys, names = set(value), [value[key] for key in ("class", "factory", "function") if key in value]
    if len(names) != 1 or not isinstance(names[0], str) or keys - {"class", "factory", "function", "arguments"}:
        raise ValueError(f"an object must be a class, a factory or a function with its arguments, got {value}")
    found, arguments = _look_up(names[0], known), value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {names[0]} must be values by name, got {arguments}")
    if "function" in keys:
        return found
    made = functools.partial(found, **{name: _build(item, known) for name, item in arguments.items()})
    if "factory" in keys:
        return made
    try:
        return made()
    except Exception as error:  # the arguments may be anything
        raise ValueError(f"{names[0]} can't be built from its arguments: {error}") from error


def _look_up(name: str, known: Known) -> Callable[..., Any]:
    if name in known:
        return known[name]
    path, _, last = name.rpartition(".")
    function = getattr(dict(_FUNCTIONS).get(path), last, None)
    if inspect.isroutine(function):
        return function
    raise ValueError(f"{name} is not one of kafnets; if it is yours, import it and pass own=[{last}]")
