"""Attacks, activations, backbones and metrics in plain PyTorch."""
