"""A network folded for evaluation on a CPU: ``Fused(net)`` computes what ``net`` computes, in less time and memory.

It is optional: evaluations attack ``Fused(net)`` because ``configs/base/run.yaml`` says so, and nothing else in the
library imports this package.

What it gives
-------------
Measured by ``python benchmarks/fused.py`` on one thread of an Intel Xeon (AVX-512) with torch 2.14 and batches of 50
images of 32 x 32 pixels; milliseconds and MB per image, ``net -> Fused(net)``. An attack step computes logits and the
gradient of the images, a query computes logits alone.

====================  =======================  =======================  ================
network               attack step              query                    memory of a step
====================  =======================  =======================  ================
KafResNet20, ReLU     2.61 -> 0.60 (x 4.32)    1.09 -> 0.30 (x 3.68)    1.94 -> 0.08
KafResNet20, KAF      3.12 -> 1.65 (x 1.89)    1.29 -> 0.66 (x 1.95)    2.53 -> 1.79
KafVGG, ReLU          1.99 -> 0.65 (x 3.04)    0.98 -> 0.30 (x 3.23)    1.79 -> 0.70
KafVGG, SiLU          2.10 -> 0.94 (x 2.23)    1.04 -> 0.43 (x 2.43)    1.92 -> 1.69
KafVGG, KAF           2.42 -> 1.25 (x 1.94)    1.12 -> 0.52 (x 2.15)    2.00 -> 1.60
KafVGG, k-WTA         2.08 -> 1.01 (x 2.05)    1.05 -> 0.56 (x 1.89)    1.63 -> 1.35
PreActResNet18, ReLU  18.44 -> 9.76 (x 1.89)   8.03 -> 4.29 (x 1.87)    7.11 -> 5.23
====================  =======================  =======================  ================

A large network gains from two images on; on a single image, PreActResNet18 takes a quarter longer through ``Fused``.

On the thesis's ReLU ResNet20, same machine, PGD-50-10 on 50 images takes 6.4 seconds instead of 31.6, and AutoAttack
standard on 20 images 23.8 seconds instead of 102.0 (``python benchmarks/attacks.py``), and the same images stay robust.

Errors on 200 test images, for the thesis's networks with ReLU and with KAF: of logits 0.5e-6 and 0.7e-6 of the largest
(PyTorch: 0.2e-6 and 0.8e-6); of the median image's gradient 0.8e-6 and 2.2e-6 (PyTorch: 0.5e-6 and 2.1e-6). Where
rounding changes the side of a kink on which a unit lies, the gradient differs by more: on three images and one
(PyTorch: one and one).

How it works
------------
1. :mod:`~kafnets.fused.graph` traces the network once and folds batch norm, additions and ReLU into the convolutions
   before them, and input normalisation into the convolution after it.
2. :mod:`~kafnets.fused.chain` computes runs of such convolutions in C++; 3x3 convolutions take a quarter of the
   multiplications by Winograd's algorithm, with stride 2 nine sixteenths.
3. A few images at a time go through all convolutions of a run, so that the values in between stay in the cache.
4. Of the ReLUs, only one bit per number is stored for the gradient.
5. Logits and gradients differ from those of ``net`` by rounding, so ``net`` itself judges what an attack finds.

When it steps aside
-------------------
``net`` itself computes the logits on a GPU, in a dtype other than float32, in training mode, under autocast, and
without a C++ compiler. It does so too if its ``forward`` cannot be traced or is random, if a module that contains
convolutions has hooks, or if logits or gradients disagree on the first image; the logger ``kafnets`` then says why.

How to do without it
--------------------
In a run, set ``--model.attack_view=null``. As a library, attack ``net`` instead of ``Fused(net)``.
"""

from kafnets.fused.network import Fused

__all__ = ["Fused"]
