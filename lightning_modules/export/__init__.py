"""``python cli.py export``: the network of a checkpoint as a folder to pass on."""

from lightning_modules.export.command import main

__all__ = ["main"]
