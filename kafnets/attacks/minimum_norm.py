"""Attacks that search for the nearest error at any distance, and are then judged at a distance of eps."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from kafnets.attacks.base import Attack, Net, check_classes, check_images
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import EvaluatedNet
from kafnets.keyed_random import image_keys, keys_for
from kafnets.logits import is_correct
from kafnets.threat import per_image
from kafnets.threat.norms import widened

_ROUNDING = 1 - 1e-5  # of eps: such a perturbation is within eps however its norm is rounded


@dataclass
class Nearest:
    """The nearest error found so far of each image.

    Attributes:
        images: ``(N, ...)``; the image itself where none was found.
        sizes: ``(N,)``, the norm of the perturbation: 0 where the image is wrong as it is, infinite where none was
            found.
    """

    images: Tensor
    sizes: Tensor

    @classmethod
    def none(cls, x: Tensor) -> "Nearest":
        """Nothing found yet."""
        return cls(x.clone(), torch.full((len(x),), torch.inf, device=x.device, dtype=widened(x).dtype))

    def keep(self, where: Tensor, images: Tensor, sizes: Tensor) -> None:
        """Keep the errors ``images``, of the images number ``where``, that are nearer than the ones known.

        A size that is infinite marks an image that is no error.
        """
        known = self.sizes[where]
        nearer = sizes < known
        self.images[where] = torch.where(per_image(nearer, images), images, self.images[where])
        self.sizes[where] = torch.where(nearer, sizes, known)


class MinimumNorm(Attack):
    """An attack that searches for the nearest error and is judged at eps.

    An error within eps is returned as it is. One further away is projected onto the ball; :class:`Attack` keeps the
    projection if it fools the network or raises the loss. :meth:`nearest` returns errors at any distance: one search
    gives the robust accuracy at every eps.

    In evaluation an image leaves the search once an error within eps is known; a longer search would give the same
    verdict. The search itself does not depend on eps unless it starts at random, so a larger eps never finds fewer
    errors.

    A subclass implements :meth:`search`. Arguments as in :class:`~kafnets.attacks.base.Attack`; ``loss`` only decides
    which of the images that do not fool the network to keep, and stays the cross-entropy.
    """

    @abstractmethod
    def search(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, logits: Tensor, enough: float) -> Nearest:
        """One attempt.

        Args:
            net: images to logits; it refuses gradients that are not finite, see
                :class:`~kafnets.attacks.queries.EvaluatedNet`.
            x: images ``(N, ...)`` that the network gets right, N >= 1.
            y: int64 ``(N,)``, the true classes.
            keys: int64 ``(N,)``, the seeds of random numbers.
            logits: ``(N, classes)``, those of ``x``.
            enough: an image needs no further search once its error is at least this near.
        """

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One attempt; errors further away than eps are projected onto the ball."""
        within = self.eps * _ROUNDING
        found = self._search(net, x, y, keys, enough=within if early_stop else 0.0)
        inside = per_image(found.sizes <= within, x)
        return torch.where(inside, found.images, self.norm.project(found.images, x, self.eps))

    def nearest(self, net: Net, x: Tensor, y: Tensor, *, keys: Tensor | None = None) -> Nearest:
        """The nearest errors over all restarts, at any distance; arguments as when called."""
        check_images(x)
        check_classes(x, y)
        keys = keys_for(x, keys)
        with preserve_state(net, eval_mode=True):
            x, y, keys = x.detach().clone(), y.clone(), keys.clone()
            net = EvaluatedNet(net, y, str(self))
            best, everywhere = Nearest.none(x), torch.arange(len(x), device=x.device)
            for restart in range(self.restarts if len(x) else 0):
                found = self._search(net, x, y, image_keys(keys, restart), enough=0.0)
                best.keep(everywhere, found.images, found.sizes)
                net.refuse_unusable()
            net.warn_if_flat()
        return best

    def _search(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, enough: float) -> Nearest:
        net = net if isinstance(net, EvaluatedNet) else EvaluatedNet(net, y, str(self))
        with torch.no_grad():
            logits = net(x)
        found, right = Nearest.none(x), is_correct(logits, y)
        found.sizes[~right] = 0
        if bool(right.any()):
            left = right.nonzero().flatten()
            errors = self.search(net, x[left], y[left], keys[left], logits[left], enough)
            net.refuse_unusable()
            found.keep(left, errors.images, errors.sizes)
        return found
