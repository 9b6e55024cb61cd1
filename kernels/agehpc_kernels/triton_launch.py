"""Launches of Triton kernels, which can be looked at instead of run."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """One kernel with all that it is compiled for and called with."""

    kernel: Any
    """What `triton.jit` made of a function."""
    programs: int
    arguments: tuple[Tensor | int | float | None, ...]
    """Tensors first, then integers, then floats."""
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


class Call:
    """A launch but for its tensors and floats, which differ from call to call.

    Finding out what a kernel has to be compiled for takes Triton longer than many a kernel runs.
    The integers are settled here, so it can depend on the tensors' dtypes and alignment alone:
    what was compiled is kept by them.
    """

    def __init__(
        self,
        kernel: Any,
        programs: int,
        integers: tuple[int, ...],
        constants: dict[str, Any],
        warps: int,
    ) -> None:
        self._launch = Launch(kernel, programs, integers, constants, warps)
        self._constants = tuple(constants[n] for n in kernel.arg_names if n in constants)
        self._ready: dict[tuple[Any, ...], Callable[..., None]] = {}

    def __call__(self, tensors: tuple[Tensor | None, ...], *floats: float) -> None:
        """Launch on the device of the first tensor."""
        arguments = (*tensors, *self._launch.arguments, *floats)
        if _recorded is not None:
            run(self._launch._replace(arguments=arguments))
            return
        first = tensors[0]
        assert first is not None
        device = first.device
        # A compiled kernel is loaded on one device, and counts on addresses that 16 divides.
        kinds = [None if t is None else (t.dtype, t.data_ptr() % 16 == 0) for t in tensors]
        key = (device, *kinds)
        ready = self._ready.get(key)
        if ready is None:
            compiled = run(self._launch._replace(arguments=arguments))
            if compiled is not None:  # the interpreter compiles nothing
                self._ready[key] = _again(compiled, self._launch.programs, device)
        elif _devices() == 1 or device.index == torch.cuda.current_device():
            ready(*arguments, *self._constants)
        else:
            with torch.cuda.device(device):
                ready(*arguments, *self._constants)


def _again(compiled: Any, programs: int, device: torch.device) -> Callable[..., None]:
    """Return what launches a compiled kernel once more, with all its arguments.

    As `compiled[(programs, 1, 1)]`, which asks for the device and the stream in Python at every
    call, and in so doing takes the host as long as the launch itself.
    """
    from triton import knobs

    start, function, packed = compiled.run, compiled.function, compiled.packed_metadata
    stream_of, index, runtime = torch._C._cuda_getCurrentRawStream, device.index, knobs.runtime

    def launch(*arguments: Any) -> None:
        if runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls:  # a profiler's
            compiled[(programs, 1, 1)](*arguments)
            return
        stream = stream_of(index)
        start(programs, 1, 1, stream, function, packed, None, None, None, *arguments)

    return launch


@functools.cache
def _devices() -> int:
    return torch.cuda.device_count()


def run(launch: Launch) -> Any:
    """Launch on the device of its first tensor; return what was compiled, if anything was."""
    if _recorded is not None:
        _recorded.append(launch)
        return None
    device = next(a.device for a in launch.arguments if isinstance(a, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return launch.kernel[(launch.programs,)](
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
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(launch.kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.warps, "enable_fp_fusion": True},
    )
