"""``python cli.py dashboard``: a workspace and a report on Weights & Biases, built from code."""

from lightning_modules.dashboard.command import main

__all__ = ["main"]
