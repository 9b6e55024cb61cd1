"""Normalisation + LeakyReLU for convolutional networks, usable without the rest of agehpc."""

from agehpc_kernels.choice import Explanation, backend, explain
from agehpc_kernels.collective import all_reduce_sum
from agehpc_kernels.convert import fuse, unfuse
from agehpc_kernels.fused import bn_leaky_relu
from agehpc_kernels.modules import (
    BatchNormLeakyReLU1d,
    BatchNormLeakyReLU2d,
    BatchNormLeakyReLU3d,
    SyncBatchNormLeakyReLU,
)
from agehpc_kernels.norm import NormLeakyReLU, calibrating, frozen_statistics, use_reference

__all__ = [
    "BatchNormLeakyReLU1d",
    "BatchNormLeakyReLU2d",
    "BatchNormLeakyReLU3d",
    "Explanation",
    "NormLeakyReLU",
    "SyncBatchNormLeakyReLU",
    "all_reduce_sum",
    "backend",
    "bn_leaky_relu",
    "calibrating",
    "explain",
    "frozen_statistics",
    "fuse",
    "unfuse",
    "use_reference",
]
