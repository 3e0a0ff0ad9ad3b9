"""Random numbers as a function of what they are for, not of what was drawn before."""

import hashlib

from torch import Generator


def keyed_generator(*key: int | str) -> Generator:
    """Return a CPU generator whose numbers depend on ``key`` alone.

    Give each use its own word, so that equal numbers for different ends do not collide.

    Example:
        >>> import torch
        >>> a, b = keyed_generator("order", 0, 7), keyed_generator("order", 0, 7)
        >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
        True
    """
    # Not hash(): Python salts it anew in every process, and a resumed run is another process.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big"))
