"""Random generators that depend on a key alone, not on what was drawn before."""

import hashlib

from torch import Generator


def keyed_generator(*key: int | str) -> Generator:
    """Return a CPU generator whose numbers depend on ``key`` alone.

    Begin the key with a word for its purpose, so that equal numbers for different purposes do not collide.

    Example:
        >>> import torch
        >>> a, b = keyed_generator("order", 0, 7), keyed_generator("order", 0, 7)
        >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
        True
    """
    # Not hash(), which differs from process to process, and a resumed run is another process.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big"))
