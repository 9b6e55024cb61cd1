"""A training by fused norms against one by torch's own functions."""

import shutil
from pathlib import Path

import pytest

from agehpc_kernels import backend
from tests.train.runs import SMOOTH, Training, flags, newest, rows, stages, tensors

TITLES = {"auto": "norms by compiled C++", "reference": "norms by torch's own functions"}


def by_cpp() -> None:
    backend("cpp").__enter__()  # for the rest of the process


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiled C++ needs g++")
@pytest.mark.parametrize("norm", [pytest.param("batch", marks=pytest.mark.slow), "sync_batch"])
def test_kernels_train_as_torch_does(shards: Path, tmp_path: Path, norm: str):
    """On two ranks, with R1, which differentiates them twice."""
    ends = {}
    for kernel, title in TITLES.items():
        # Networks of a test are small: on its own the choice would be torch.
        patch = by_cpp if kernel == "auto" else None
        out = tmp_path / kernel
        norms = [f"--model.{name}.norm={norm}" for name in ("encoder", "generator")]
        arguments = [*stages(0, 0), *SMOOTH, *norms, "--train.norm-kernel", kernel]
        arguments += ["--train.kimg", "0.04", "--observe.tick-kimg", "0.004"]
        log = tmp_path / f"{kernel}.log"
        ended = Training(flags(shards, out, *arguments), log, 2, patch=patch).end()
        assert ended.codes == [0, 0], ended.output
        assert title in ended.output
        ends[kernel] = rows(out / "metrics.jsonl"), tensors(newest(out))
    (fused, ours), (reference, theirs) = ends["auto"], ends["reference"]
    assert len(fused) == 10
    for a, b in zip(fused, reference, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    for name, tensor in ours.items():
        assert tensor.sub(theirs[name]).abs().max() < 1e-3, name
    assert any(not tensor.equal(theirs[name]) for name, tensor in ours.items())


def test_kernels_that_are_insisted_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGEHPC_KERNELS_BUILD", "0")
    monkeypatch.setenv("AGEHPC_KERNELS_CACHE", str(tmp_path / "empty"))
    arguments = [*stages(0, 0), "--train.norm-kernel", "fused"]
    ended = Training(flags(shards, tmp_path / "run", *arguments), tmp_path / "log", 2).end()
    assert ended.codes == [2, 2]
    errors = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.output  # one rank speaks
    assert "--train.norm-kernel fused: no kernel runs on cpu" in errors[0]
    assert "AGEHPC_KERNELS_BUILD=0 forbids building it" in errors[0]
    assert "--train.norm-kernel auto takes torch's own functions there" in errors[0]
