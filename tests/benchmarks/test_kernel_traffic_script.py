"""The traffic meter, in processes of its own: Triton interprets or compiles for a whole process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
KNOWN = '''
import json
import torch, triton
import triton.language as tl
import kernel_traffic
from agehpc_kernels.triton_launch import Launch

@triton.jit
def widen(x_ptr, y_ptr, n, one_ptr, B: tl.constexpr):
    """Read n bfloat16 values, and one float64 without a mask; write n float32 values."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    x = tl.load(x_ptr + at, at < n, other=0).to(tl.float32)
    tl.store(y_ptr + at, x + tl.load(one_ptr).to(tl.float32), at < n)

x = torch.arange(1000).bfloat16()
y, one = torch.zeros(1000), torch.ones((), dtype=torch.float64)
launch = Launch(widen, 4, (x, y, 1000, one), {"B": 256}, 4)
exact = kernel_traffic.meter(launch, 0)
assert torch.equal(y, x.float() + 1)
sampled = kernel_traffic.meter(launch, 2)
print(json.dumps([exact.loaded, exact.stored, sampled.loaded, sampled.stored]))
'''


def interpreted(*command: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([str(FOLDER), *(p for p in sys.path if p)])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": search, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )


def test_a_known_kernel_is_counted_exactly(tmp_path: Path):
    script = tmp_path / "known.py"
    script.write_text(KNOWN)
    done = interpreted(str(script))
    assert done.returncode == 0, done.stderr
    # Four programs of 256 lanes, 232 of them past the end, and a float64 each; then the first and
    # the third of them, twice.
    expected = [1000 * 2 + 4 * 8, 1000 * 4, 2 * (512 * 2 + 2 * 8), 2 * 512 * 4]
    assert json.loads(done.stdout) == expected


def metered(*words: str) -> list[dict]:
    done = interpreted(str(FOLDER / "kernel_traffic.py"), *words, "--json")
    assert done.stdout, done.stderr
    rows = json.loads(done.stdout)
    assert done.returncode == (0 if all(row["met"] for row in rows) else 1)
    return rows


@pytest.mark.parametrize(
    ("words", "variant", "most", "ideal"),
    [
        # More values a channel than one block holds, not a power of two; channels few.
        (["--shape", "16x3x48x48", "--layout", "contiguous"], "two-pass", 8.2, (3, 5)),
        (["--shape", "5x7x30x24", "--layout", "contiguous"], "single-read", 5.1, (2, 3)),
        (["--shape", "8x16x4x4x4", "--layout", "channels_last"], "single-read", 5.1, (2, 3)),
    ],
)
def test_passes(words: list[str], variant: str, most: float, ideal: tuple[int, int]):
    rows = metered(*words, "--sample", "0")
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    assert len({(row["order"], row["save"]) for row in rows}) == 4
    for row in rows:
        assert row["variant"] == variant
        assert ideal[0] <= row["forward"] <= ideal[0] + 0.1, row
        assert ideal[1] <= row["backward"] <= ideal[1] + 0.1, row
        assert row["both"] <= most


def test_passes_of_large_tensors_with_channels_last():
    """Where a program holds many channels, whose statistics it reads as well."""
    (row,) = metered(
        *("--shape", "16x64x256x256", "--layout", "channels_last", "--dtype", "bfloat16"),
        *("--order", "norm_first", "--save", "input"),
    )
    assert row["variant"] == "two-pass"
    assert row["both"] <= 8.2, row


def test_what_is_too_much_is_told():
    """A tensor so small that what belongs to channels counts."""
    (row,) = metered(
        *("--shape", "2x4x1", "--dtype", "bfloat16", "--layout", "contiguous"),
        *("--order", "norm_first", "--save", "input", "--sample", "0"),
    )
    assert row["both"] > row["limit"]
    assert not row["met"]


@pytest.mark.slow
def test_passes_of_the_whole_table():
    """Sampled, as the table is told, in both layouts."""
    wrong = [row for row in metered() if not row["met"]]
    assert not wrong
