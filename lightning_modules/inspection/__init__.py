"""``python cli.py inspect``: what the activations of trained networks do with clean and with attacked images."""

from lightning_modules.inspection.command import main

__all__ = ["main"]
