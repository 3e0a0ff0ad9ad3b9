"""The Kullback-Leibler divergence between two outputs of a network, one value per image."""

from torch import Tensor


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """``KL(p || q) = sum_k p_k (log p_k - log q_k)``, p from ``reference`` and q from ``logits``, for each image.

    In float32 or better, and differentiable in both arguments. It is computed from logits, not from probabilities: one
    that underflows to 0 would make the gradient NaN.

    Args:
        logits: ``(N, classes)``, floating point; ``q = softmax(logits)``.
        reference: ``(N, classes)``, floating point; ``p = softmax(reference)``.

    Returns:
        ``(N,)``, >= 0 but for rounding.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[200.0, 0.0]]))
        tensor([0.6931])
    """
    log_q, log_p = ((z.float() if z.dtype.itemsize < 4 else z).log_softmax(1) for z in (logits, reference))
    return (log_p.exp() * (log_p - log_q)).sum(1)
