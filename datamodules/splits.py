"""Seeded orders and splits that keep every class in proportion."""

import torch
from torch import Generator, Tensor

# Share of the images that become the test set where a data set comes without one.
TEST_FRACTION = 0.2


def interleave(labels: Tensor, generator: Generator) -> Tensor:
    """Return a random order of the images in which every prefix holds the classes in proportion.

    With equally large classes, a prefix of ``k`` images holds ``floor(k / C)`` or ``ceil(k / C)`` of each of the ``C``
    classes, so the first images are a fair sample even if files are sorted by class.

    Args:
        labels: ``(N,)`` int64, >= 0.
        generator: a CPU generator; the order depends on it and on the labels alone.

    Returns:
        A permutation of ``0 .. N-1``, ``(N,)`` int64.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> labels[interleave(labels, Generator().manual_seed(0))].reshape(3, 2).sum(1).tolist()
        [1, 1, 1]
    """
    counts = torch.bincount(labels)
    # Random order first, stable sort by class second: random within each class.
    shuffled = torch.randperm(len(labels), generator=generator)
    grouped = shuffled[torch.argsort(labels[shuffled], stable=True)]
    group = labels[grouped]
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[group]
    progress = (place + 0.5) / counts[group].double()
    # Classes of equal size tie at every step; the second shuffle keeps one class from always coming first.
    shuffled = torch.randperm(len(labels), generator=generator)
    return grouped[shuffled][torch.argsort(progress[shuffled], stable=True)]


def stratified_split(labels: Tensor, fraction: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Split positions into the rest and a held-out ``fraction`` with every class in proportion.

    Args:
        labels: ``(N,)`` int64, ``0 .. C-1``.
        fraction: share of the images held out, in (0, 1); ``round(fraction * N)`` images.
        generator: a CPU generator; the split depends on it, the labels and the fraction alone.

    Returns:
        The rest in ascending order and the held-out positions in :func:`interleave` order, both int64.

    Raises:
        ValueError: if ``fraction`` is out of its range, or leaves a class without an image on either side.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the held-out fraction must lie strictly between 0 and 1, got {fraction}")
    order = interleave(labels, generator)
    size = round(fraction * len(labels))
    held_out, rest = order[:size], order[size:].sort().values
    classes = int(labels.max()) + 1
    for name, part in (("held-out part", held_out), ("rest", rest)):
        counts = torch.bincount(labels[part], minlength=classes)
        if int(counts.min()) == 0:
            raise ValueError(
                f"fraction {fraction} of {len(labels)} images leaves the {name} without an image of class "
                f"{int(counts.argmin())}; choose a fraction nearer to 0.5 or give that class more images"
            )
    return rest, held_out
