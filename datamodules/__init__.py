"""Data modules of images, and the parts they are made of."""

from datamodules.augment import Augment, Chain, CropFlip, RandomCrop, RandomFlip
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from datamodules.image_tensors import ImageTensors
from datamodules.imagenet_folder import ImageNetFolder
from datamodules.images import Images
from datamodules.phases import Phase
from datamodules.samplers import EvalBatches, ShuffledBatches
from datamodules.splits import interleave, stratified_split
from datamodules.torchvision_sets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "Augment",
    "Chain",
    "CropFlip",
    "Digits",
    "EvalBatches",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "ImageNetFolder",
    "ImageTensors",
    "Images",
    "Phase",
    "RandomCrop",
    "RandomFlip",
    "ShuffledBatches",
    "interleave",
    "stratified_split",
]
