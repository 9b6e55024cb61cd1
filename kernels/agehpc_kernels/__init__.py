"""Normalisation + LeakyReLU for convolutional networks, usable without the rest of agehpc."""

from agehpc_kernels.collective import all_reduce_sum
from agehpc_kernels.norm import NormLeakyReLU, calibrating, frozen_statistics

__all__ = ["NormLeakyReLU", "all_reduce_sum", "calibrating", "frozen_statistics"]
