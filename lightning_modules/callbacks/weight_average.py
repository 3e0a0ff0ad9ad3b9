"""An average of the weights of a run, evaluated beside the live weights and kept in its checkpoints."""

import copy
from collections import deque
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from kafnets.attacks.queries import ask
from lightning_modules.classifier import VAL, Evaluation

BATCH_NORM = nn.modules.batchnorm._BatchNorm


class WeightAverage(Callback):
    """Average the weights along training: exponentially (EMA) or evenly (SWA).

    After step t, ``average <- d average + (1 - d) weights``. EMA has ``d = min(decay, (1 + t) / (10 + t))`` (Gowal et
    al. 2020, section 3.4), SWA ``d = t / (t + 1)`` (Izmailov et al. 2018), counted from ``start``. Steps are those of
    the optimizer: accumulated batches make one step together, and every replay of :class:`~kafnets.objectives.Free` is
    a step. The running statistics of batch norm belong to other weights, so those of the average are estimated anew
    before every evaluation and checkpoint, on the inputs of the last ``batches`` training batches. All other buffers,
    and extra state such as the ratio of k-WTA, are those of the live network.

    Validation counts both networks: ``val/robust_accuracy`` is that of the live weights, ``val/average_clean_accuracy``
    and ``val/average_robust_accuracy`` those of the average. In a checkpoint the average takes the place of the
    network, so that every test of it tests the average, and the records of a test say so; the live weights are beside
    it, and a resumed run goes on with them. To keep the best average, monitor ``val/average_robust_accuracy``, as
    ``ema.yaml`` does.

    Args:
        decay: of EMA, in (0, 1); None for SWA.
        start: the fraction of the run after which averaging begins, in [0, 1); before, the average is the live network.
            SWA usually starts late, such as at 0.75.
        batches: number of training batches whose inputs estimate the statistics of batch norm, >= 1.

    Raises:
        ValueError: if a setting is out of its range, or a checkpoint that is resumed contains no average.
    """

    def __init__(self, *, decay: float | None = 0.995, start: float = 0.0, batches: int = 20) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1), or be null for an even average, got {decay:g}")
        if not 0 <= start < 1:
            raise ValueError(f"start must be a fraction of the run in [0, 1), got {start:g}")
        if batches < 1:
            raise ValueError(f"batches must be >= 1, got {batches}")
        self.decay, self.start, self.batches = decay, start, batches
        self.steps = 0
        self.net: nn.Module | None = None
        self._begun = False
        self._has_moved = False  # since the statistics of batch norm were estimated
        self._inputs: deque[Tensor] = deque(maxlen=batches)
        self._counted = Evaluation()
        self._attacked: nn.Module | None = None

    @property
    def label(self) -> str:
        """How the weights were averaged, for records."""
        kind = "even average" if self.decay is None else f"exponential average with decay {self.decay:g}"
        return f"{kind} of {self.steps} steps"

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin with the live network."""
        if self.net is None:
            self.net = copy.deepcopy(pl_module.net).requires_grad_(False)
        self.net.to(pl_module.device)
        self._inputs = deque((x.to(pl_module.device) for x in self._inputs), maxlen=self.batches)
        self._counted.to(pl_module.device)
        pl_module.record.pop("weights", None)  # of the checkpoint that is resumed; training goes on with live weights

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Follow the steps of the optimizer."""
        # no hook of Lightning's is called once per step with accumulated batches and with replays of a batch
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._move(pl_module.net))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to average when the start is passed."""
        done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        self._begun = done > self.start * (trainer.max_epochs or 1)

    @torch.no_grad()
    def _move(self, live: nn.Module) -> None:
        """Move the average towards the weights of a step."""
        assert self.net is not None
        keep = self._keep() if self._begun else 0.0
        self.steps += self._begun
        averaged: list[Tensor] = list(self.net.parameters())
        torch._foreach_lerp_(averaged, list(live.parameters()), 1 - keep)
        self._has_moved = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the inputs, for the statistics of batch norm."""
        self._inputs.append(pl_module.inputs.detach())

    def _keep(self) -> float:
        t = self.steps
        return t / (t + 1) if self.decay is None else min(self.decay, (1 + t) / (10 + t))

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Prepare the average for an evaluation beside the live network."""
        if self.net is None or not self._inputs:
            return
        self._estimate(trainer)
        self._attacked = pl_module.attack_view(self.net) if pl_module.attack_view else self.net

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count the average on a batch."""
        if self._attacked is not None and self.net is not None:
            attack, images = pl_module.val_attack, pl_module.val_images
            pl_module.count(batch, self._counted, attack, images, VAL, nets=(self.net.eval(), self._attacked))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the accuracies of the average."""
        if self._attacked is not None:
            values = self._counted.compute()
            names = ("clean_accuracy", "robust_accuracy")
            pl_module.log_dict({f"val/average_{name}": values[name] for name in names}, sync_dist=True)
            self._attacked = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the inputs, so that checkpoints of whole epochs do not hold them."""
        self._estimate(trainer)  # there may have been no validation
        self._inputs.clear()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the average in the place of the network, and the live weights beside it."""
        assert self.net is not None
        self._estimate(trainer)  # a signal may have stopped the run between two steps
        checkpoint["record"] = {"weights": self.label}
        state = checkpoint["state_dict"]
        checkpoint["live_net"] = {name: state[f"net.{name}"] for name in self.net.state_dict()}
        checkpoint["state_dict"] = state | {f"net.{name}": value for name, value in self.net.state_dict().items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the live weights of a checkpoint, and with its average."""
        if trainer.state.fn != "fit":
            return
        if "live_net" not in checkpoint:
            raise ValueError("the checkpoint contains no average of weights; resume it without WeightAverage")
        self.net = copy.deepcopy(pl_module.net).requires_grad_(False)
        pl_module.net.load_state_dict(checkpoint["live_net"])

    def _estimate(self, trainer: Trainer) -> None:
        """Give the average the state that is not averaged, unless it has not moved since."""
        if self.net is None or not self._has_moved:
            return
        self._has_moved = False
        copy_state(trainer.lightning_module.net, self.net)  # type: ignore[arg-type]
        with trainer.precision_plugin.train_step_context():
            estimate_statistics(self.net, list(self._inputs))
        for name, buffer in self.net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(trainer.strategy.reduce(buffer.clone(), reduce_op="mean"))

    def snapshot(self) -> dict[str, Any]:
        """Return copies of the averaged weights, and the number of steps."""
        assert self.net is not None
        return {"weights": [p.clone() for p in self.net.parameters()], "steps": self.steps}

    @torch.no_grad()
    def go_back(self, state: dict[str, Any]) -> None:
        """Take the average back to a snapshot; the statistics of batch norm are estimated when they are needed."""
        assert self.net is not None
        torch._foreach_copy_(list(self.net.parameters()), state["weights"])
        self.steps, self._has_moved = state["steps"], True

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps averaged, and the inputs of the last steps."""
        return {"steps": self.steps, "inputs": list(self._inputs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting and collecting."""
        self.steps = state_dict["steps"]
        self._inputs.extend(state_dict.get("inputs", ()))


@torch.inference_mode(False)  # validation begins in inference mode, whose tensors no attack can differentiate
def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Give a network copies of all that another of the same structure holds besides parameters."""
    for theirs, ours in zip(source.modules(), target.modules(), strict=True):
        for name, buffer in theirs._buffers.items():
            ours._buffers[name] = None if buffer is None else buffer.clone()
        if type(theirs).get_extra_state is not nn.Module.get_extra_state:
            ours.set_extra_state(copy.deepcopy(theirs.get_extra_state()))


@torch.no_grad()
def estimate_statistics(net: nn.Module, inputs: list[Tensor]) -> None:
    """Set the running statistics of batch norm to the mean over some batches; no other module enters training mode."""
    layers = [module for module in net.modules() if isinstance(module, BATCH_NORM)]
    momenta = [layer.momentum for layer in layers]
    net.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
        layer.train()
    for x in inputs:
        ask(net, x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    net.eval()
