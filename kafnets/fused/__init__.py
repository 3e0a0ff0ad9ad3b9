"""A network folded for evaluation on a CPU: ``Fused(net)`` computes what ``net`` computes, in less time and memory.

:mod:`~kafnets.fused.graph` traces the network and folds batch norm, additions, ReLU and normalisation into the
convolutions; :mod:`~kafnets.fused.chain` computes runs of them in C++, a few images at a time, so that the values in
between stay in the cache. Evaluations attack ``Fused(net)`` because ``configs/base/run.yaml`` says so; nothing else in
the library imports this package. Measurements, accuracy and when ``net`` itself computes: ``docs/fused.md``.
"""

from kafnets.fused.network import Fused

__all__ = ["Fused"]
