"""What guards have found, where a dashboard can show it."""

from pytorch_lightning import Trainer


def log_events(trainer: Trainer, **values: float) -> None:
    """Log ``guard/<name>`` for each value, at the step at hand, to every logger; rank 0 writes."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            named = {f"guard/{name}": float(value) for name, value in values.items()}
            logger.log_metrics(named, step=trainer.global_step)
