"""Normalisation + LeakyReLU for convolutional networks, usable without the rest of agehpc."""

from agehpc_kernels.choice import Explanation, backend, explain
from agehpc_kernels.collective import all_reduce_sum
from agehpc_kernels.fused import bn_leaky_relu
from agehpc_kernels.norm import NormLeakyReLU, calibrating, frozen_statistics

__all__ = [
    "Explanation",
    "NormLeakyReLU",
    "all_reduce_sum",
    "backend",
    "bn_leaky_relu",
    "calibrating",
    "explain",
    "frozen_statistics",
]
