"""Stop a run when its loss is not finite, and name the layer that is first affected."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, distributed, nn

from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.device_reads import Later
from lightning_modules.callbacks.guard_events import log_events


class NonFiniteLossError(ArithmeticError):
    """A loss or a weight is NaN or infinite; raised on all ranks, with the same message."""


@contextmanager
def _first_bad_output(net: nn.Module) -> Iterator[list[str]]:
    """Collect the names of leaf modules whose output is not finite, in the order they run."""
    names: list[str] = []

    def watch(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not bool(torch.isfinite(output).all()):
                names.append(f"{name} ({type(module).__name__})")

        return hook

    leaves = [(name, module) for name, module in net.named_modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def first_affected(net: nn.Module, x: Tensor, images: Tensor) -> str:
    """Return where a non-finite value appears first: in the parameters, the images or a layer's output.

    Args:
        net: the network; its state is not changed.
        x: a batch of its inputs, attacked or not.
        images: the batch before the attack; used if ``x`` is not finite, because then every layer's output is not.

    Returns:
        Text for a message, such as ``layer block1.act_a (KAF)``.
    """
    for name, parameter in net.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"parameter {name}, after an earlier step"
    if not bool(torch.isfinite(images).all()):
        return "the input images"
    attacked_is_finite = bool(torch.isfinite(x).all())
    for batch in (x, images) if attacked_is_finite else (images,):
        # in training mode SyncBatchNorm would wait for the ranks whose loss is finite
        synced = any(isinstance(module, nn.SyncBatchNorm) for module in net.modules())
        with preserve_state(net, eval_mode=synced), torch.no_grad(), _first_bad_output(net) as names:
            ask(net, batch)
        if names:
            return f"layer {names[0]}"
    return "no layer: the loss itself overflowed" if attacked_is_finite else "the attack's gradient"


def _first_found(trainer: Trainer, found: tuple[str, str] | None) -> tuple[int, tuple[str, str]]:
    """The first rank that has found something, and what; at least one has."""
    everywhere: list[tuple[str, str] | None] = [found] * trainer.world_size
    if trainer.world_size > 1:
        distributed.all_gather_object(everywhere, found)
    return next((rank, text) for rank, text in enumerate(everywhere) if text is not None)


class FiniteLoss(Callback):
    """Raise :class:`NonFiniteLossError` at the first step whose loss is not finite, before the weights are updated.

    The message names the step, the layer first affected and the last good checkpoint. A loss that is not finite on one
    rank raises the same error on all of them. The loss is read after the backward pass has been queued, so that a GPU
    does not become idle. The weights are checked too, before the checkpoint of an epoch is written, so that no
    checkpoint holds non-finite weights.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the images, for the report."""
        self._images = batch[0]

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        """Ask whether the loss of a step is finite on all ranks."""
        self._loss = loss.detach()
        finite = torch.isfinite(self._loss).int()
        if trainer.world_size > 1:
            distributed.all_reduce(finite, distributed.ReduceOp.MIN)  # Lightning's reduce() would wait for the device
        self._finite = Later(finite)

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        """Check the loss of a step."""
        if self._finite.read() == [1]:
            return
        found = None
        if not bool(torch.isfinite(self._loss)):
            with trainer.precision_plugin.train_step_context():  # half precision overflows where float32 does not
                where = first_affected(pl_module.net, pl_module.inputs, self._images)
            found = f"the loss is {self._loss.item()}", where
        rank, (what, where) = _first_found(trainer, found)
        self._stop(trainer, f"{what} on rank {rank}" if trainer.world_size > 1 else what, where)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Check the weights, which are equal on all ranks."""
        for name, parameter in pl_module.net.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                self._stop(trainer, "a weight is not finite", f"parameter {name}")

    def _stop(self, trainer: Trainer, what: str, where: str) -> None:
        log_events(trainer, not_finite=1)
        last = getattr(trainer.checkpoint_callback, "last_model_path", "") or trainer.ckpt_path or "none written yet"
        raise NonFiniteLossError(
            f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}); first affected: {where}; "
            f"last good checkpoint: {last}. Lower optimizer lr, set trainer.gradient_clip_val, or train in 32-true"
        )
