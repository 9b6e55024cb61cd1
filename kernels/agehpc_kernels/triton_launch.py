"""Launches of Triton kernels, which can be looked at instead of run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """One kernel with all that it is compiled for and called with."""

    kernel: Any
    """What `triton.jit` made of a function."""
    programs: int
    arguments: tuple[Tensor | int | None, ...]
    constants: dict[str, Any]
    warps: int


_recorded: list[Launch] | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of running them, on any device, meta too; outputs stay unwritten.

    To compile ahead of time just what would run, or to count launches.
    """
    global _recorded
    before = _recorded
    _recorded = launches = []
    try:
        yield launches
    finally:
        _recorded = before


def run(launch: Launch) -> None:
    """Launch on the device of its first tensor."""
    if _recorded is not None:
        _recorded.append(launch)
        return
    device = next(a.device for a in launch.arguments if isinstance(a, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        launch.kernel[(launch.programs,)](
            *launch.arguments,
            **launch.constants,
            num_warps=launch.warps,
            # Its default is about to change (Triton 3.10).
            enable_fp_fusion=True,
        )


def compile_ahead(launch: Launch, capability: int) -> Any:
    """Compile what a launch would run, for aligned tensors; needs no GPU, only its target.

    Not under TRITON_INTERPRET, where kernels are no longer compilable.

    Args:
        launch: as recorded.
        capability: of the CUDA device, 80 or 90.

    Returns:
        Triton's compiled kernel: `asm["cubin"]`, `asm["ptx"]`, `metadata`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    names = launch.kernel.arg_names
    signature = dict.fromkeys(names, "constexpr")
    constants = {(names.index(name),): value for name, value in launch.constants.items()}
    attributes = {}
    for i, value in enumerate(launch.arguments):
        # As a launch specialises: None and 1 are constants, multiples of 16 are known as such.
        if value is None or (isinstance(value, int) and value == 1):
            constants[(i,)] = value
            continue
        signature[names[i]] = mangle_type(value)
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(launch.kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.warps, "enable_fp_fusion": True},
    )
