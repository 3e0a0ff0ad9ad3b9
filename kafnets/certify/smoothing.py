"""Randomised smoothing: the class that a network gives most often under Gaussian noise, certified in L2."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from scipy.stats import beta, binomtest
from scipy.stats import norm as gaussian
from torch import Tensor, nn

from kafnets.certify.certificate import Certificate, Certifier
from kafnets.keyed_random import image_keys, keys_for, normal
from kafnets.threat import L2

SELECTION, ESTIMATION, PREDICTION = range(3)  # what noise is drawn for; part of its keys


class Smoothed(NamedTuple):
    """What :meth:`Smoothing.certify` found.

    Attributes:
        classes: int64 ``(N,)``; -1 where the smoothed classifier abstains.
        radius: L2 radius in input units, float64 ``(N,)``; 0 where it abstains.
    """

    classes: Tensor
    radius: Tensor


def clopper_pearson(successes: int, total: int, alpha: float) -> float:
    """The lower end of the one-sided interval of Clopper and Pearson: the truth is below it with probability alpha.

    Args:
        successes: in [0, total].
        total: number of trials, >= 1.
        alpha: in (0, 1).

    Example:
        >>> round(clopper_pearson(100, 100, 0.001), 4), clopper_pearson(0, 100, 0.001)
        (0.9333, 0.0)
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"successes must lie in [0, total] with total >= 1, got {successes} of {total}")
    return 0.0 if successes == 0 else float(beta.ppf(alpha, successes, total - successes + 1))


class Smoothing(Certificate):
    """The smoothed classifier ``g(x) = argmax_c P(argmax net(x + sigma N(0, I)) = c)`` and its certified L2 radius.

    Cohen, Rosenfeld, Kolter 2019 (arXiv 1902.02918, theorem 1 and section 3.2): ``n0`` noisy copies choose a class,
    ``n`` others give a lower bound p of its probability by Clopper and Pearson; g has that class within
    ``sigma Phi^-1(p)``, and abstains if p <= 1/2. The certificate of an image is wrong with probability at most
    ``alpha``, for each image on its own.

    Noisy images are not clipped to [0, 1]. The noise belongs to the image and the number of the copy
    (:mod:`kafnets.keyed_random`): the size of batches changes nothing but rounding. It is pseudo-random, made of
    uniform numbers of 24 bits, so that no value exceeds 5.8 sigma.

    Args:
        sigma: standard deviation of the noise, in input units, > 0.
        n0: copies that choose the class, >= 1.
        n: copies that bound its probability, >= 1. The largest radius that n copies can certify is that of
            ``p = alpha^(1 / n)``: 3.8 sigma for the paper's 100,000, 2.5 sigma for 1000.
        alpha: in (0, 1).
        batch: copies that pass the network at once, >= 1.
        radii: see :class:`~kafnets.certify.certificate.Certificate`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> sure = lambda x: torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)
        >>> found = Smoothing(sigma=0.25, n=1000).certify(sure, torch.ones(2, 1, 8, 8))
        >>> found.classes, found.radius.round(decimals=3)
        (tensor([0, 0]), tensor([0.6160, 0.6160], dtype=torch.float64))
    """

    headline = ("sigma",)
    norm = L2()

    def __init__(
        self,
        *,
        sigma: float = 0.25,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        batch: int = 1000,
        radii: Sequence[float | str] | None = None,
    ) -> None:
        super().__init__(radii=radii)
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma must be > 0 and finite, got {sigma!r}; the paper has 0.12, 0.25, 0.5 and 1")
        for name, value in (("n0", n0), ("n", n), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value!r}")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {alpha!r}; the paper has 0.001")
        self.sigma, self.n0, self.n, self.alpha, self.batch = float(sigma), n0, n, float(alpha), batch
        self.failure = 2 * self.alpha  # of the radius, and of the class found at an attacked image

    def of(self, net: nn.Module, radii: Sequence[float]) -> Certifier:
        """See :meth:`~kafnets.certify.certificate.Certificate.of`."""
        limits = torch.tensor(radii, dtype=torch.float64)

        def certified(x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
            found = self.certify(net, x, keys)
            return (found.classes == y)[:, None].cpu() & (found.radius[:, None] >= limits)

        return certified

    def answers(self, net: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
        """The classes of :meth:`predict`."""
        return self.predict(net, x, keys)

    @torch.no_grad()
    def counts(self, net: Callable[[Tensor], Tensor], x: Tensor, keys: Tensor, copies: int, use: int) -> Tensor:
        """How many noisy copies of one image ``(C, H, W)`` get each class, int64 ``(classes,)``; keys is a scalar.

        Copies with a logit that is not finite get no class, but count as copies.
        """
        total: Any = 0
        for numbers in torch.arange(copies, device=x.device).split(self.batch):
            # the number is hashed first, so that the key of no copy is the index of another image
            noise = normal(image_keys(image_keys(numbers, use) ^ keys), x.shape).to(x.dtype)
            logits = net(x + self.sigma * noise)
            classes = logits.argmax(1)[logits.isfinite().all(1)]
            total = total + torch.bincount(classes, minlength=logits.shape[1])
        return total

    def certify(self, net: Callable[[Tensor], Tensor], x: Tensor, keys: Tensor | None = None) -> Smoothed:
        """Class and radius of each image (the paper's ``Certify``).

        Args:
            net: images to logits, in the mode in which it is certified.
            x: ``(N, C, H, W)``.
            keys: int64 ``(N,)``, one per image, from :func:`~kafnets.keyed_random.image_keys`. None for keys that
                follow ``torch.manual_seed``.
        """
        classes, radius = [], []
        for image, key in zip(x, keys_for(x, keys), strict=True):
            best = int(self.counts(net, image, key, self.n0, SELECTION).argmax())
            hits = int(self.counts(net, image, key, self.n, ESTIMATION)[best])
            least = clopper_pearson(hits, self.n, self.alpha)
            classes.append(best if least > 0.5 else -1)
            radius.append(self.sigma * float(gaussian.ppf(least)) if least > 0.5 else 0.0)
        return Smoothed(torch.tensor(classes, device=x.device), torch.tensor(radius, dtype=torch.float64))

    def predict(self, net: Callable[[Tensor], Tensor], x: Tensor, keys: Tensor | None = None) -> Tensor:
        """The class of each image, or -1 if ``n0`` copies do not tell it from the second with confidence ``1 - alpha``.

        The paper's ``Predict``: the class is another than that of g with probability at most ``alpha``.
        """
        found = []
        for image, key in zip(x, keys_for(x, keys), strict=True):
            counts = self.counts(net, image, key, self.n0, PREDICTION)
            (first, second), best = counts.topk(2).values.tolist(), int(counts.argmax())
            certain = first > 0 and binomtest(first, first + second, 0.5).pvalue <= self.alpha
            found.append(best if certain else -1)
        return torch.tensor(found, device=x.device)
