"""Fast adversarial training as in its public repository, for comparison with training here.

The loop of github.com/locuslab/fast_adversarial (``CIFAR10/train_fgsm.py``, Wong, Rice, Kolter 2020): images through
torchvision's transforms in a DataLoader with two workers, a full backward pass in the attack, gradients of the weights
discarded. Network, batch size and optimizer are the same as in the training it is compared with.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

EPS, ALPHA = 8 / 255, 10 / 255


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 images ``(N, C, H, W)`` and labels, as torchvision's CIFAR10 holds and transforms them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        size = images.shape[-1]
        self.transform = transforms.Compose(
            [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(np.squeeze(self.images[index]))), self.labels[index]


def steps(
    net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batch_size: int, device: str
) -> Iterator[int]:
    """Train for one epoch; yield the number of images after every step."""
    loader = DataLoader(
        Images(images, labels), batch_size=batch_size, shuffle=True, pin_memory=device == "cuda", num_workers=2
    )
    net.train()
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        delta = torch.zeros_like(x).uniform_(-EPS, EPS)
        delta.data = torch.clamp(delta, 0 - x, 1 - x)
        delta.requires_grad = True
        F.cross_entropy(net(x + delta), y).backward()
        grad = delta.grad.detach()
        delta.data = torch.clamp(delta + ALPHA * torch.sign(grad), -EPS, EPS)
        delta.data = torch.clamp(delta, 0 - x, 1 - x)
        delta = delta.detach()
        loss = F.cross_entropy(net(x + delta), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(x)
