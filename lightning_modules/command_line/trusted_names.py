"""Checks which names in the configuration of a checkpoint may be imported: loading it must not run foreign code.

The configuration that a checkpoint carries names classes and functions that are imported and called, so a prepared
checkpoint could call anything. Therefore it may only name what is defined in this project, PyTorch's optimizers, the
functions of ``torch.nn.functional``, and members of packages that the user names on the command line or in a config
file. Everything else is refused by name, before anything is imported.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

PROJECT = ("kafnets", "lightning_modules", "datamodules")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def check_names(config: dict[str, Any], source: str, trusted: Iterable[str] = ()) -> None:
    """Raise ``ValueError`` if the ``model`` or ``data`` of a checkpoint names something that it may not.

    Args:
        config: flat configuration of a checkpoint.
        source: the checkpoint, for the message.
        trusted: top-level packages that the user has named.

    Example:
        >>> check_names({"model": {"decay_filter": "os.system"}}, "last.ckpt")
        Traceback (most recent call last):
        ValueError: last.ckpt names os.system, which is neither of this project nor a PyTorch optimizer; ...
    """
    own = set(trusted)
    # data modules take no functions, so other text in their configuration, such as a path, is not imported
    names = [*_names(config.get("model"), every=True), *_names(config.get("data"), every=False)]
    for name in names:
        if name.partition(".")[0] not in own and not _is_known(name):
            raise ValueError(
                f"{source} names {name}, which is neither of this project nor a PyTorch optimizer; if it is yours and "
                f"you trust it, name it yourself on the command line or in a --config file"
            )


def packages_named(value: Any) -> set[str]:
    """Return the top-level packages of all dotted names in a configuration or a list of flags."""
    if isinstance(value, dict):
        return set().union(*map(packages_named, value.values()), set())
    if isinstance(value, (list, tuple)):
        return set().union(*map(packages_named, value), set())
    text = str(value).rpartition("=")[2]
    return {text.partition(".")[0]} if _DOTTED.fullmatch(text) else set()


def _names(value: Any, *, every: bool) -> Iterator[str]:
    """Yield the dotted names in a configuration: all of them, or only those of classes."""
    if isinstance(value, dict):
        for key, item in value.items():
            is_class = key.removesuffix("+") == "class_path"
            if is_class and isinstance(item, str):
                yield from [item] if "." in item else []
            else:
                yield from _names(item, every=every)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item, every=every)
    elif every and isinstance(value, str) and _DOTTED.fullmatch(value):
        yield value


def _is_known(name: str) -> bool:
    """Whether a name belongs to the project or to the allowed ones of PyTorch; imports modules of the project only."""
    module, _, attribute = name.rpartition(".")
    if module == "torch.nn.functional":
        return inspect.isroutine(getattr(torch.nn.functional, attribute, None))
    if module == "torch.optim":
        found = getattr(torch.optim, attribute, None)
        return inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
    if name.partition(".")[0] not in PROJECT:
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    # what a module of the project imports from elsewhere does not count
    return (inspect.isclass(found) or inspect.isroutine(found)) and found.__module__.partition(".")[0] in PROJECT
