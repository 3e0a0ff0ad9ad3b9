"""How long the rest of a study takes, from the members that have finished."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Axes = Mapping[str, str]


def expected_seconds(finished: Sequence[tuple[Axes, float]], wanted: Iterable[Axes]) -> list[float]:
    """Return how long members take, from others: each label multiplies the time by a factor of its own.

    The factors are the least-squares fit of least norm to the logarithms, so a label that has not run yet has factor 1.

    Args:
        finished: axes and seconds of members; at least one.
        wanted: axes of the members asked for.

    Example:
        >>> done = [({"net": "a", "on": "x"}, 10), ({"net": "a", "on": "y"}, 40), ({"net": "b", "on": "x"}, 20)]
        >>> [round(value) for value in expected_seconds(done, [{"net": "b", "on": "y"}, {"net": "c", "on": "z"}])]
        [80, 20]
    """
    labels = {pair: column for column, pair in enumerate({pair: None for axes, _ in finished for pair in axes.items()})}

    def rows(members: Iterable[Axes]) -> np.ndarray:
        found = [[labels[pair] for pair in axes.items() if pair in labels] for axes in members]
        table = np.zeros((len(found), len(labels)))
        for row, columns in zip(table, found, strict=True):
            row[columns] = 1
        return table

    logs = np.log([max(seconds, 1e-3) for _, seconds in finished])
    factors = np.linalg.lstsq(rows(axes for axes, _ in finished), logs - logs.mean(), rcond=None)[0]
    return [float(value) for value in np.exp(rows(wanted) @ factors + logs.mean())]


def in_words(seconds: float) -> str:
    """Return a duration in its natural unit.

    Example:
        >>> [in_words(value) for value in (4.2, 200, 9000)]
        ['4 s', '3.3 min', '2.5 h']
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
