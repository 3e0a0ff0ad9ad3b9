"""The depths of CIFAR ResNets, 6n + 2."""


def blocks_per_stage(depth: int) -> int:
    """The n of a ResNet of ``depth = 6n + 2`` weighted layers: three stages of n blocks of two convolutions.

    He et al. (2016), "Deep residual learning for image recognition", CVPR, section 4.2.

    Raises:
        ValueError: if ``depth`` is not 6n + 2 with n >= 1; the message names the nearest valid depths.

    Example:
        >>> [blocks_per_stage(depth) for depth in (20, 56, 110)]
        [3, 9, 18]
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        nearest = [6 * n + 2 for n in (blocks, blocks + 1) if n >= 1] or [8]
        raise ValueError(f"depth must be 6n+2 with n >= 1, got {depth}; the nearest: {' or '.join(map(str, nearest))}")
    return blocks
