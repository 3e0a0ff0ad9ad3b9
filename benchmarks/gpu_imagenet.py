"""The part ``imagenet`` of ``gpu.py``: training steps of a ResNet-50 on random photographs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import seconds
from torch import nn

from kafnets.activations import KAF, Activation, ReLU, Ridge, SiLU
from kafnets.backbones import Backbone, ResNet50
from kafnets.keyed_random import image_keys
from kafnets.objectives import Adversarial, Batch
from kafnets.threat import ThreatModel


def silu_kaf(channels: int) -> Activation:
    """The KAF of ``kafresnet50_imagenet.yaml``."""
    return KAF(channels, init=Ridge(nn.functional.silu))


ACTIVATIONS: dict[str, Callable[[int], Activation]] = {
    "ReLU": ReLU,
    "SiLU": SiLU,
    "KAF": silu_kaf,
    "KAF, shared": lambda channels: KAF(channels, init=Ridge(nn.functional.silu), groups=1),
}


def training_step(net: Backbone, size: int, batch_size: int, device: str) -> Callable[[], None]:
    """A step of fast adversarial training as ``gpu.yaml`` takes it: bfloat16 autocast, channels_last."""
    objective, threat = Adversarial(), ThreatModel(eps=4 / 255)
    net = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.rand(batch_size, 3, size, size, device=device), torch.arange(batch_size, device=device) % 10
    batch = Batch(x, y, image_keys(torch.arange(batch_size, device=device), 0), 0.0, threat)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            terms = objective(net, batch)
        terms.loss.backward()
        optimizer.step()

    return step


def figures(device: str, *, dry: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Images per second and peak memory of each activation and phase, those at 224 pixels first."""
    steps, small = (1, {"width": 2}) if dry else (10, {})
    for size, batch_size in [(64, 4)] if dry else [(224, 128), (128, 256), (288, 64)]:
        for name, activation in ACTIVATIONS.items():
            torch.manual_seed(0)
            step = training_step(ResNet50(activation=activation, **small), size, batch_size, device)
            for _ in range(3):
                step()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = seconds(lambda step=step: [step() for _ in range(steps)], device)  # type: ignore[misc]
            values: dict[str, Any] = {"images_per_second": round(batch_size * steps / taken, 1)}
            if device == "cuda":
                values["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            yield f"ResNet50, {name}, {size} px, batch {batch_size}", values
