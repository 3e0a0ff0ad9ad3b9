"""Measurements per image, which can be joined, stored and read again."""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class PerImageResults:
    """Columns of one value per image, ordered by the index of the image; NaN where nothing was measured.

    True and False are stored as 1 and 0. The column ``index`` always exists and contains each image once.

    Args:
        columns: name to values ``(N,)``, real; the column ``index`` among them.

    Raises:
        ValueError: if ``index`` is missing, a length differs, or an image occurs twice.

    Example:
        >>> first = PerImageResults({"index": torch.tensor([2, 0]), "clean": torch.tensor([True, False])})
        >>> both = PerImageResults.join([first, PerImageResults({"index": torch.tensor([1])})])
        >>> both.encode()
        {'index': [0, 1, 2], 'clean': '0-1'}
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        if "index" not in columns:
            raise ValueError(f"per-image results need a column 'index', got {sorted(columns)}")
        order = columns["index"].argsort()
        lengths = {name: tuple(values.shape) for name, values in columns.items() if values.shape != order.shape}
        if lengths:
            raise ValueError(f"every column must have one value for each of the {len(order)} images, got {lengths}")
        self.columns = {name: values.double().cpu()[order.cpu()] for name, values in columns.items()}
        index = self.columns["index"]
        if len(index.unique()) != len(index):
            raise ValueError(f"an image was measured twice: {len(index)} images, {len(index.unique())} different ones")

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The columns called ``prefix/<rest>``, by their ``<rest>``, in the order of measurement."""
        start = f"{prefix}/"
        return {name.removeprefix(start): values for name, values in self.columns.items() if name.startswith(start)}

    def worst(self, *prefixes: str) -> Tensor:
        """The smallest value of each image over all columns with these prefixes; 1 if there is no such column."""
        found = [values for prefix in prefixes for values in self.named(prefix).values()]
        return torch.stack(found).amin(0) if found else torch.ones(len(self), dtype=torch.float64)

    def robust(self, *prefixes: str) -> Tensor:
        """1 for each image that is classified correctly without an attack and under all columns with these prefixes.

        An attack that an image has not met yet, NaN in its column, does not count.
        """
        found = [values for prefix in prefixes for values in self.named(prefix).values()]
        return torch.stack([self["clean"], *found]).nan_to_num(1.0).amin(0)

    @classmethod
    def join(cls, parts: Iterable["PerImageResults"]) -> "PerImageResults":
        """The results of disjoint sets of images as one; a column that a part lacks is NaN there."""
        parts = list(parts)
        names = dict.fromkeys(name for part in parts for name in part.columns)
        if not parts:
            return cls({"index": torch.empty(0)})
        return cls({name: torch.cat([_column(part, name) for part in parts]) for name in names})

    def encode(self) -> dict[str, Any]:
        """For JSON: columns of 1 and 0 as strings of ``1``, ``0`` and ``-`` (not measured), others as lists."""
        return {name: _encoded(name, values) for name, values in self.columns.items()}

    @classmethod
    def decode(cls, columns: Mapping[str, Any]) -> "PerImageResults":
        """What :meth:`encode` wrote.

        Raises:
            ValueError: if :meth:`encode` can't have written it.
        """
        index = columns.get("index") if isinstance(columns, Mapping) else None
        if not isinstance(index, list) or any(type(value) is not int or value < 0 for value in index):
            raise ValueError("per-image results need a column 'index' of integers >= 0")
        return cls({name: _decoded(name, values) for name, values in columns.items()})


def _column(part: PerImageResults, name: str) -> Tensor:
    return part.columns.get(name, torch.full((len(part),), math.nan, dtype=torch.float64))


def _encoded(name: str, values: Tensor) -> Any:
    if name == "index":
        return [int(value) for value in values]
    if bool((values.isnan() | (values == 0) | (values == 1)).all()):
        return "".join("-" if math.isnan(value) else str(int(value)) for value in values.tolist())
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _decoded(name: str, values: Any) -> Tensor:
    marks = {"0": 0.0, "1": 1.0, "-": math.nan}
    if isinstance(values, str) and marks.keys() >= set(values):
        decoded = [marks[value] for value in values]
    elif isinstance(values, list) and all(value is None or _is_number(value) for value in values):
        decoded = [math.nan if value is None else value for value in values]
    else:
        raise ValueError(
            f"column {name} must be a text of 0, 1 and -, or a list of numbers and null, got {values!r:.40}"
        )
    return torch.tensor(decoded, dtype=torch.float64)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
