"""Norms of gradients and activations in every layer, along a training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from kafnets.analysis.activation_layers import activation_layers
from kafnets.plots import plot_layer_norms
from lightning_modules.callbacks.pictures import publish
from lightning_modules.files import finite, write_json


class GradientNorms(Callback):
    """Measure the gradient of every kernel and the output of every activation, every ``every`` steps.

    Gradients are those of a training step, before clipping, as L2 norms of each convolutional and dense kernel;
    activations are root mean squares of the outputs in the last forward pass of that step (with adversarial training:
    the attacked images). They exist anyway, so a measurement costs one reduction per layer. They are logged as
    ``gradient_norm/<layer>`` and ``activation_rms/<layer>``, and written to ``gradient_norms.json`` and
    ``gradient_norms.png`` (layer x step) in the run folder, also where the run ends with an error. Give it with
    ``--trainer.callbacks+=GradientNorms``.

    Args:
        every: steps between two measurements, >= 1; the first step is always measured.

    Raises:
        ValueError: if ``every`` is below 1, or if the network is trained through ``torch.compile``, whose graph does
            not tell what activations return.
    """

    def __init__(self, *, every: int = 50) -> None:
        if every < 1:
            raise ValueError(f"every must be >= 1, got {every}")
        self.every = every
        self.rows: list[dict[str, Any]] = []
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse a compiled network."""
        if pl_module.compile_backend is not None:
            raise ValueError(
                f"GradientNorms needs a network that is not compiled, got compile_backend={pl_module.compile_backend}; "
                "set --model.compile_backend=null"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch the activations of a step that is due."""
        due = trainer.global_step % self.every == 0
        if due and not self._handles and (not self.rows or self.rows[-1]["step"] < trainer.global_step):
            names: dict[nn.Module, str] = {module: name for name, module in activation_layers(pl_module.net).items()}
            # not hooks of the layers, with which objectives that bound the network refuse it
            self._handles = [register_module_forward_hook(self._keep(names))]

    def _keep(self, names: dict[nn.Module, str]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module in names:
                self._outputs[names[module]] = output.detach()

        return hook

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Measure a step that is due: its gradients are complete, of all processes, and unscaled."""
        if not self._handles:
            return
        outputs = {name: output.float().square().mean().sqrt() for name, output in self._outputs.items()}
        self._stop_watching()
        kernels = {n: m.weight.grad for n, m in pl_module.net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        gradients = {name: grad.float().norm() for name, grad in kernels.items() if grad is not None}
        values = torch.stack([*gradients.values(), *outputs.values()]).tolist()  # waits for the device once
        norms = dict(zip(gradients, values, strict=False))
        sizes = dict(zip(outputs, values[len(gradients) :], strict=True))
        self.rows.append({"step": trainer.global_step, "gradients": norms, "activations": sizes})
        named = {f"gradient_norm/{name}": value for name, value in norms.items()}
        named |= {f"activation_rms/{name}": value for name, value in sizes.items()}
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(named, step=trainer.global_step)

    def _stop_watching(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._outputs = [], {}

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the files."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write what was measured before the error, which may show its cause."""
        self._stop_watching()
        if trainer.training and trainer.world_size == 1:  # other processes may not come
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: Any) -> None:
        folder = trainer.log_dir  # a collective call: every rank makes it
        if not (self.rows and trainer.loggers and folder):
            return
        publish(trainer, "gradient_norms", plot_layer_norms(self.rows))
        if trainer.is_global_zero:
            write_json(Path(folder) / "gradient_norms.json", {"run": pl_module.labels(), "rows": finite(self.rows)})

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the measurements of earlier epochs."""
        self.rows = list(state_dict["rows"])
