"""Devices by their data sheets: memory, peak arithmetic, and links one way. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

DeviceName = Literal["a100-40", "a100-80", "h100-80", "h200", "cpu"]


@dataclass(frozen=True)
class Device:
    """What a data sheet says, and what connects it.

    Attributes:
        memory_gb: memory, in 1e9 bytes.
        tflops: peak of dense products by `train.precision`; fp32 as TF32, which torch's
            convolutions use unless told otherwise.
        intra_gb_s: from a GPU to those of its node, 1e9 bytes a second one way.
        inter_gb_s: from a GPU to other nodes, by a network card of its own, as in the makers'
            nodes of 8; one way.
    """

    memory_gb: float
    tflops: dict[str, float]
    intra_gb_s: float
    inter_gb_s: float


_AMPERE = {"fp32": 156.0, "bf16": 312.0}
_HOPPER = {"fp32": 494.5, "bf16": 989.5}  # the sheets' 989 and 1,979 are with sparsity
# NVLink: 600 (A100) and 900 GB/s (Hopper) both ways together. Network: ConnectX-6 at 200 Gbit/s
# (DGX A100), ConnectX-7 at 400 Gbit/s (DGX H100, DGX H200), one for each GPU.
DEVICES: dict[DeviceName, Device | None] = {
    "a100-40": Device(40.0, _AMPERE, 300.0, 25.0),
    "a100-80": Device(80.0, _AMPERE, 300.0, 25.0),
    "h100-80": Device(80.0, _HOPPER, 450.0, 50.0),
    "h200": Device(141.0, _HOPPER, 450.0, 50.0),
    "cpu": None,  # whatever the machine has
}
