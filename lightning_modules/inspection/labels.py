"""Names by which the networks of a page are told apart."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.command_line.run_folder import run_of

Record = Mapping[str, Any]


def labels(networks: Sequence[Record]) -> tuple[list[dict[str, str]], list[str]]:
    """The axes on which networks differ, at least the activation, and a name for each that no other has.

    Args:
        networks: dictionaries with ``axes`` (``network``, ``activation``, ``objective``) and ``checkpoint``, a path.

    Example:
        >>> axes = {"network": "KafVGG", "activation": "ReLU", "objective": "TRADES"}
        >>> labels([{"axes": axes, "checkpoint": "a.ckpt"}, {"axes": axes, "checkpoint": "b.ckpt"}])[1]
        ['ReLU · a', 'ReLU · b']
    """
    known = [each["axes"] for each in networks]
    differ = [name for name in known[0] if len({each[name] for each in known}) > 1] or ["activation"]
    axes = [{name: each[name] for name in differ} for each in known]
    names = [" · ".join(each.values()) for each in axes]
    further: list[Callable[[Record], str]] = [_run_name, lambda each: Path(each["checkpoint"]).stem, _whole_path]
    for more in further:
        count = Counter(names)
        names = [
            f"{name} · {more(each)}" if count[name] > 1 else name for name, each in zip(names, networks, strict=True)
        ]
    return axes, names


def _run_name(each: Record) -> str:
    path = Path(each["checkpoint"])
    run = run_of(path)
    return path.stem if run is None else run.parent.name


def _whole_path(each: Record) -> str:
    return each["checkpoint"]
