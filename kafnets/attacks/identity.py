"""The identity of a network or an attack: everything that decides its answers, to tell one run from another."""

import copyreg
import dis
import hashlib
import json
import sys
import weakref
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Children: TypeAlias = Iterable[tuple[str, Any]]

_PLAIN = (bool, int, float, complex, str, bytes)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_CONTENTS = ("_parameters", "_buffers", "_modules")
_UNUSED = ("training", "_given", "_is_full_backward_hook", "_non_persistent_buffers_set")  # _given: the label's text


def digest(values: Tensor) -> str:
    """SHA-256 of a tensor: its dtype, shape and bytes."""
    described = f"{values.dtype} {tuple(values.shape)}".encode()
    raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(described + raw.tobytes()).hexdigest()


def identity_digest(value: Any) -> str | None:
    """SHA-256 of the identity of a network or an attack; None if it has none.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = identity_digest(net)
        >>> _ = net.weight.data.add_(1)
        >>> before == identity_digest(net)
        False
    """
    try:
        parts = identity("it", value)
    except ValueError:
        return None
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def identity(name: str, value: Any) -> dict[str, str]:
    """What decides the answers of an object, part by part, the same in every process.

    The parts are values, tensors, attributes (of modules without their mode, which an evaluation sets), hooks, classes
    and functions. Classes and functions of this package and of installed ones are told apart by their names, others by
    their code, default values, closures and the globals that they use.

    Args:
        name: of the object, which the name of each part begins with.
        value: the object.

    Raises:
        ValueError: if a part, such as a lock or an open file, can't be told from another of its kind.

    Example:
        >>> one, other = (identity("loss", lambda z, y: scale * z[:, 0]) for scale in (1, 2))
        >>> [part for part in one if one[part] != other[part]]
        ['loss.scale']
    """
    walk = _Walk()
    walk.visit(name, value)
    return walk.found


class _Walk:
    """Visits an object and all that it consists of."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.open: set[int] = set()  # what is being visited: objects may contain themselves
        self.code: dict[int, Any] = {}  # classes and functions: one visit is enough

    def visit(self, place: str, value: Any) -> None:
        """Add the parts of ``value``."""
        try:
            head, children = _split(value)
        except Exception as error:  # `__reduce_ex__` is code of the object and raises anything
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ValueError(
                f"{place} is a {kind}, which can't be told from another one ({error}); leave it out, or replace it by "
                "values, tensors, modules or functions"
            ) from error
        self.found[place] = head
        if id(value) in self.open or id(value) in self.code:
            return
        if isinstance(value, type | FunctionType):
            self.code[id(value)] = value
        self.open.add(id(value))
        for part, child in children:
            self.visit(f"{place}.{part}", child)
        self.open.remove(id(value))


def _split(value: Any) -> tuple[str, Children]:
    """A text about the object itself, and the objects that it consists of by name."""
    kind = type(value).__qualname__
    if value is None or isinstance(value, _PLAIN):
        return f"{kind} {value!r}", ()
    if isinstance(value, Tensor):
        return digest(value), ()
    if isinstance(value, ModuleType):
        return f"module {value.__name__}", ()
    if isinstance(value, weakref.ref):
        return "reference", [("to", value())]
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}", _members(value)
    if isinstance(value, FunctionType):
        return _function(value)
    if isinstance(value, nn.Module):
        if type(value).__module__.startswith("torch._dynamo"):  # compiled: the same answers
            return _network(value._modules["_orig_mod"])  # type: ignore[arg-type]
        if type(value).__reduce__ is object.__reduce__:
            return _network(value)
    if isinstance(value, set | frozenset):
        return f"{kind} {sorted(json.dumps(identity('item', item)) for item in value)}", ()
    if type(value) in (list, tuple, torch.Size):
        return f"{kind} of {len(value)}", [(str(place), item) for place, item in enumerate(value)]
    if type(value) is dict:
        return f"dict of {list(map(_key, value))}", [(_key(key), item) for key, item in value.items()]
    return _object(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(identity("key", key))


def _object(value: Any) -> tuple[str, Children]:
    """An object as `pickle` takes it apart."""
    reduced = copyreg.dispatch_table.get(type(value), lambda each: each.__reduce_ex__(4))(value)
    if isinstance(reduced, str):
        return f"{type(value).__qualname__} {reduced}", ()
    make, arguments, state, items, entries = (*reduced, None, None, None)[:5]
    attributes = state if isinstance(state, dict) else {"state": state}
    parts = {"made by": make, "from": arguments, "items": items and list(items), "entries": entries and list(entries)}
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]  # an instance as `object` makes it
        parts |= {"made by": None, "from": arguments[1:] or None, "class": arguments[0]}
    given = [(str(name), part) for name, part in [*attributes.items(), *parts.items()] if part is not None]
    return type(value).__qualname__, sorted(given, key=lambda pair: pair[0])


def _network(net: nn.Module) -> tuple[str, Children]:
    attributes = {name: value for name, value in vars(net).items() if not _is_unused(name)}
    for contents in _CONTENTS:
        attributes |= attributes.pop(contents)
    hooks = {name: list(vars(net)[name].values()) for name in _HOOKS if vars(net)[name]}
    parts = {**attributes, **hooks, "class": type(net)}
    return f"module with {list(net._modules)}", sorted(parts.items())


def _is_unused(name: str) -> bool:
    return name in _UNUSED or "_hooks" in name or (name.startswith("_") and "compile" in name)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    if _is_installed(cls.__module__):
        return
    yield "bases", cls.__bases__
    for name, member in vars(cls).items():
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, property):
            member = [member.fget, member.fset]
        elif isinstance(member, cached_property):
            member = member.func
        elif isinstance(member, GetSetDescriptorType | MemberDescriptorType) or name == "_abc_impl":
            continue
        if isinstance(member, FunctionType) or not name.startswith("__"):
            yield name, member


def _function(function: FunctionType) -> tuple[str, Children]:
    name, code = f"{function.__module__}.{function.__qualname__}", function.__code__
    installed = _is_installed(str(function.__globals__.get("__name__")))
    if installed and _is_found_by_name(function):
        return f"function {name}", ()
    parts: dict[str, Any] = {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
    parts |= {key: value for key, value in vars(function).items() if key != "__wrapped__"}
    if not installed:
        used = sorted(_global_names(code) & function.__globals__.keys())
        parts |= {key: function.__globals__[key] for key in used}
    for key, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts[key] = cell.cell_contents
        except ValueError:  # not assigned yet
            parts[key] = None
    return f"function {name} {_code_digest(code, function.__doc__)}", parts.items()


def _code_digest(code: CodeType, doc: str | None = None) -> str:
    found = hashlib.sha256(code.co_code)
    for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
        found.update(f"{names}".encode())
    for value in code.co_consts:
        if isinstance(value, CodeType):
            found.update(_code_digest(value).encode())
        elif value != doc:
            # the order of a set of strings differs between processes
            found.update(f"{sorted(map(repr, value)) if isinstance(value, frozenset) else value!r}".encode())
    return found.hexdigest()


def _global_names(code: CodeType) -> set[str]:
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(value) for value in code.co_consts if isinstance(value, CodeType)))


def _is_found_by_name(function: FunctionType) -> bool:
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _is_installed(module: str) -> bool:
    """Whether a module belongs to this package, to Python or to an installed package."""
    top = module.partition(".")[0]
    if top == __name__.partition(".")[0] or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
