"""The Triton kernels: their own tests in a process of the interpreter, or on a GPU; compilations.

By hand: TRITON_INTERPRET=1 AGEHPC_KERNELS_ON=cpu pytest tests/kernels/interpreted
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agehpc_kernels import by_triton, triton_launch
from agehpc_kernels.form import Form
from agehpc_kernels.triton_launch import Launch, compile_ahead, recording
from agehpc_kernels.triton_plan import PARTS, plan

ROOT = Path(__file__).parents[2]
FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))
FORMS = [Form(0.2, "norm_first", "input"), Form(0.2, "activation_first", "output")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_in_the_interpreter(path: Path):
    run_tests(path, {"AGEHPC_KERNELS_ON": "cpu", "TRITON_INTERPRET": "1"})


@pytest.mark.gpu
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_on_a_gpu(path: Path):
    run_tests(path, {"AGEHPC_KERNELS_ON": "cuda"})


def run_tests(path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    search = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-4000:]


def launches(shape: tuple[int, ...], dtype: torch.dtype, last: bool, form: Form) -> list[Launch]:
    """All that training and evaluation would launch, each kernel once."""
    x = torch.empty(shape, dtype=dtype, device="meta")
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    w = torch.empty(shape[1], device="meta")
    with recording() as found:
        y, stats = by_triton.forward_moving(x, w, w, 1e-5, form, (w, w, 0.1))
        by_triton.apply(x, stats, w, w, form)
        by_triton.backward(y, x, stats, w, w, form, w.dtype)
        by_triton.backward_fixed(y, x, stats, w, w, form)
    return found


def disassembled(launch: Launch) -> tuple[int, Counter[str]]:
    """Bytes of stack, and how often each memory instruction of sm_80 stands in the kernel."""
    import triton

    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compile_ahead(launch, 80).asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True)
            for what in ("-res-usage", "-sass")
        )
    stack = re.search(r"STACK:(\d+)", usage.stdout + usage.stderr)
    assert stack
    return int(stack[1]), Counter(re.findall(r"\b(?:LDG|STG|LDL|STL)[.\w]*", sass.stdout))


@pytest.mark.parametrize(
    ("shape", "last", "dtype"),
    [
        ((16, 64, 64, 64), False, torch.bfloat16),
        ((16, 64, 64, 64), True, torch.bfloat16),
        ((16, 512, 32, 32), False, torch.bfloat16),
        pytest.param((8, 512, 32, 32), False, torch.float32, marks=pytest.mark.slow),
        pytest.param((64, 512), False, torch.float32, marks=pytest.mark.slow),
        pytest.param((1024, 512), False, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", [FORMS[0], pytest.param(FORMS[1], marks=pytest.mark.slow)])
def test_compiled_for_sm_80(shape: tuple[int, ...], last: bool, dtype: torch.dtype, form: Form):
    """No spill, and all of x, y, dy and dx as vectors of 128 bits."""
    for launch in launches(shape, dtype, last, form):
        name = launch.kernel.__name__
        stack, found = disassembled(launch)
        assert stack == 0, name
        assert not any(op.startswith(("LDL", "STL")) for op in found), name
        for op in found:
            if ".EF" in op or ".EL" in op:
                assert op.endswith(".128"), (name, found)
        if name in ("apply", "apply_backward", "forward_once", "backward_once"):
            assert found["STG.E.128"] >= 1, (name, found)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(16, 64, 31, 31), (8, 61, 31, 31), (2, 61, 16, 32)])
def test_no_spills_of_odd_shapes(
    shape: tuple[int, ...], last: bool, dtype: torch.dtype, form: Form
):
    for launch in launches(shape, dtype, last, form):
        stack, found = disassembled(launch)
        assert stack == 0, (launch.kernel.__name__, found)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 3, 2**20), (7, 65, 33), (2, 1000, 5), (50000, 3), (4, 64, 2**17)]
)
def test_every_value_is_covered_once(shape: tuple[int, ...], last: bool):
    x = torch.empty(shape, device="meta")
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    p = plan(x)
    n, c, s = p.shape
    assert n * c * s == x.numel()
    rows, columns = -(-n // p.tile.rows), -(-(c if p.channels_last else s) // p.tile.columns)
    assert p.tiles * p.groups == rows * columns * (1 if p.channels_last else c)
    assert (p.parts - 1) * p.per_program < p.tiles <= p.parts * p.per_program
    assert 1 <= p.parts <= PARTS
    for tile in (p.forward_once, p.backward_once):
        assert tile is None or tile.rows >= n
        assert tile is None or p.channels_last or tile.columns >= s


@pytest.mark.parametrize("shape", [(64, 3, 128, 128), (1, 64, 512, 512), (2, 16, 16, 256, 256)])
@pytest.mark.parametrize("last", [False, True])
def test_few_channels_fill_the_chip(shape: tuple[int, ...], last: bool):
    """About two blocks of 8 warps for each of the 108 multiprocessors assumed on meta."""
    x = torch.empty(shape, device="meta")
    p = plan(x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x)
    assert p.parts * p.groups >= 190
    assert p.forward == ("moments", "combine", "apply")


def test_offsets_get_64_bits_when_they_need_them():
    assert plan(torch.empty((8, 128, 32, 256, 256), device="meta")).big
    assert not plan(torch.empty((8, 128, 31, 256, 256), device="meta")).big


def test_refusals():
    form = Form(0.2)
    x = torch.zeros(2, 3)
    assert by_triton.refusal(x, form) == "Triton: does not compile for cpu"
    assert by_triton.refusal(x.to("meta"), form) == "Triton: does not compile for meta"
    assert by_triton.refusal(x.long(), form) == "Triton: no kernels for torch.int64"


def test_small_tensors_are_left_to_torch():
    small, large = (torch.empty(n, 64, 64, 64, device="meta") for n in (31, 32))
    assert by_triton.slower(large, Form(0.2)) is None
    assert by_triton.slower(small, Form(0.2)) == (
        "8126464 values are fewer than 8388608: launches cost the host more than they save"
    )


def test_a_call_compiles_for_each_kind_of_tensors(monkeypatch: pytest.MonkeyPatch):
    """Dtypes, alignment, and which are missing; a ready one gets what a first launch would."""
    compiled, launched = [], []

    def run(launch: Launch) -> SimpleNamespace:
        compiled.append(launch)
        found = f"kernel {len(compiled)}", f"metadata {len(compiled)}"
        return SimpleNamespace(
            run=lambda *a: launched.append(a), function=found[0], packed_metadata=found[1]
        )

    monkeypatch.setattr(triton_launch, "run", run)
    monkeypatch.setattr(triton_launch, "_devices", lambda: 1)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 42)
    kernel = SimpleNamespace(arg_names=["a", "b", "n", "f", "X", "Y"])
    call = triton_launch.Call(kernel, 7, (5,), {"Y": 2, "X": 1}, 4)
    a, b = torch.zeros(16), torch.zeros(16)
    kinds = [(a, b), (a, None), (a[1:], b), (a, b[1:]), (a.double(), b), (a[4:], b[8:])]
    for _ in range(2):
        for tensors in kinds:
            call(tensors, 0.5)
    assert len(compiled) == 5  # the last is aligned as the first
    assert all(c.constants == {"Y": 2, "X": 1} and c.programs == 7 for c in compiled)
    assert len(launched) == 2 * len(kinds) - len(compiled)
    for grid_x, grid_y, grid_z, stream, function, metadata, *rest in launched:
        assert (grid_x, grid_y, grid_z, stream) == (7, 1, 1, 42)
        assert function.split()[1] == metadata.split()[1]
        assert rest[:3] == [None, None, None]  # nobody watches
        assert rest[5:] == [5, 0.5, 1, 2]
    functions = [function for *_, function in (one[:5] for one in launched)]
    assert functions[-6:] == [f"kernel {n}" for n in (1, 2, 3, 4, 5, 1)]
