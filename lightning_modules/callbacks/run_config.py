"""The resolved configuration, in the run folder and in every checkpoint."""

from typing import Any

import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.cli import SaveConfigCallback

from lightning_modules.provenance import code_version, data_identity, study_name


class RunConfig(SaveConfigCallback):
    """Write ``config.yaml``, and pass the configuration to every logger and into each checkpoint.

    Loggers get the scalars by which runs are compared (activation, backbone, objective, norm, eps, seed, study) at the
    top level, where dashboards can group by them, and the whole configuration below ``config``. A checkpoint carries it
    as YAML text under ``config``, so that ``test --ckpt_path FILE`` rebuilds the network without the original files.
    """

    _trained_on: dict[str, Any] | None = None

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Pass the labels and the configuration to the loggers; called on rank 0."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))  # plain data, functions by name
        for logger in trainer.loggers:
            logger.log_hyperparams({**pl_module.labels(), "study": study_name(), "config": config})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, the version of the code, and what identifies the training images."""
        checkpoint["config"] = self.parser.dump(self.config, skip_none=False)
        checkpoint["code"] = code_version()
        if self._trained_on is None:
            self._trained_on = data_identity(trainer, trainer.train_dataloader.dataset)  # type: ignore[union-attr]
        checkpoint["trained_on"] = self._trained_on
