"""Tell the user that a network has collapsed."""

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from kafnets.analysis.collapse import only_class, outside_dictionary
from lightning_modules.callbacks.guard_events import log_events
from lightning_modules.measuring import in_float32

FEWEST = 20  # images; a good network may predict one class for fewer
ONE_CLASS = "class"  # no layer of a network has this name
OUTSIDE = 0.5  # share of a layer's inputs outside its dictionary


class Collapse(Callback):
    """Warn if one class is predicted for every image, or if most inputs of a KAF lie outside its dictionary.

    A sample of the first batch of a validation or test is checked. In training, where the first epochs may begin so,
    it must hold in two validations in a row. What was found is kept in ``events``, for the record of the test.

    Args:
        images: size of the sample, >= 20.
    """

    def __init__(self, *, images: int = 256) -> None:
        if images < FEWEST:
            raise ValueError(f"images must be >= {FEWEST}, got {images}")
        self.images = images
        self.events: list[dict[str, Any]] = []
        self._before: set[str] = set()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the first batch."""
        if batch_idx == 0 and not trainer.sanity_checking:
            with in_float32(batch[0].device):
                found = dict(self._find(pl_module.net, batch))
            told = self._before if trainer.state.fn == "fit" else set(found)
            self._before = set(found)
            self._tell(trainer, {name: found[name] for name in found if name in told})

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the first batch."""
        if batch_idx == 0:
            with in_float32(batch[0].device):
                self._tell(trainer, dict(self._find(pl_module.net, batch)))

    def state_dict(self) -> dict[str, Any]:
        """Return what was found so far."""
        return {"events": self.events}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the resumed run had found."""
        self.events = list(state_dict["events"])

    def _tell(self, trainer: Trainer, found: dict[str, str]) -> None:
        for text in found.values():
            if text not in [event["text"] for event in self.events]:
                when = {} if trainer.testing else {"epoch": trainer.current_epoch + 1}
                self.events.append({"kind": "collapse", "text": text} | when)
            rank_zero_warn(text)
        if ONE_CLASS in found:
            log_events(trainer, one_class=1)
        if layers := len(found.keys() - {ONE_CLASS}):
            log_events(trainer, outside_dictionary=layers)

    def _find(self, net: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[tuple[str, str]]:
        """Yield a key and a message for everything found."""
        x, y = batch[0][: self.images], batch[1][: self.images]
        if len(x) >= FEWEST and len(torch.unique(y)) > 1:
            predicted = only_class(net, x)
            if predicted is not None:
                yield (
                    ONE_CLASS,
                    f"the network has collapsed: it predicts class {predicted} for all of {len(x)} images; train for "
                    "longer, with a lower learning rate or a smaller eps",
                )
        for name, share in outside_dictionary(net, x).items():
            if share > OUTSIDE:
                yield (
                    name,
                    f"layer {name}: most of its inputs lie outside the dictionary of its kernels, where it is 0; "
                    "widen its boundary, lower the learning rate, or take a ResidualKAF",
                )
