import csv
import json
from types import SimpleNamespace

import kernel_layers
import kernel_rivals
import kernel_step
import kernel_times
import pytest
import throughput
import torch
from kernel_cases import NAMED, Case

import kernels

CPU = torch.device("cpu")
SMALL = (4, 3, 6, 5)


@pytest.mark.parametrize("order", ["norm_first", "activation_first"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_providers_compute_the_same(order, channels_last):
    case = Case(SMALL, channels_last=channels_last, order=order)
    x = case.tensor(CPU).requires_grad_()
    assert x.is_contiguous() is not channels_last
    dy = torch.randn_like(x.detach())
    found = [
        kernel_times.step(f(case, CPU), x, dy)()
        for f in kernel_times.SAVERS.values()
        if f in (kernel_rivals.fused, kernel_rivals.eager)
    ]
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", ["cuDNN", "inplace_abn", "apex", "attorch"])
def test_what_needs_a_gpu_says_so(name):
    with pytest.raises(kernel_rivals.UnsuitedError, match="GPU"):
        kernel_rivals.PROVIDERS[name](Case(SMALL), CPU)


@pytest.mark.parametrize(
    ("provider", "save", "kept"),
    [("fused", "input", 2), ("fused", "output", 1), ("eager", "input", 3),
     ("eager, in place", "input", 2)],
)  # fmt: skip
def test_kept_activations(provider, save, kept):
    value = kernel_times.saved(Case((8, 4, 64, 64), save=save), provider)
    assert kept <= value < kept + 0.01


@pytest.mark.slow
def test_what_torch_compile_keeps():
    assert 2 <= kernel_times.saved(Case((8, 4, 64, 64)), "torch.compile") < 2.01


def test_ratios_are_of_the_fastest_rounds_and_of_each_round():
    got = kernel_times.ratios([2.0, 1.0, 4.0], [4.0, 6.0, 4.0])
    assert got == {"value": 4.0, "median": 2.0, "low": 1.0, "high": 6.0}


def test_all_take_turns(monkeypatch):
    ran = []
    monkeypatch.setattr(kernel_times, "TURN_S", 0)
    steps = {name: lambda name=name: ran.append(name) for name in "ab"}
    found = kernel_times.take_turns(steps, 4)
    assert "".join(ran[6:]) == "abba" * 2  # two calls that warm up and one that is timed, each
    assert [len(seconds) for seconds in found.values()] == [4, 4]


def test_layers_of_the_models():
    found = kernel_layers.model_layers("dcgan_64")
    assert {case.shape for case in found} == {
        *((64, 512, 4, 4), (64, 256, 8, 8), (64, 128, 16, 16), (64, 64, 32, 32))
    }
    assert found[Case((64, 64, 32, 32), slope=0.0)] >= 1
    assert {len(case.shape) for case in kernel_layers.model_layers("video_age_64")} == {5}


def test_cpu_cases_hold_the_promised_shapes_in_every_form():
    cases = kernels.cpu_cases()
    assert len(set(cases)) == len(cases)
    for shape in NAMED:
        assert sum(case.shape == shape for case in cases) == 4


def test_predictions_are_passes_over_rate(monkeypatch):
    row = {"shape": "1000x1000", "dtype": "bfloat16", "forward": 2.0, "backward": 3.0}
    monkeypatch.setattr(kernels, "script", lambda *_: [row | {"both": 5.0, "launches": 2}])
    rows = list(kernels.predicted(SimpleNamespace()))
    assert [row["value"] for row in rows] == [
        pytest.approx(1e7 / r) for r in (1.555e6, 2.039e6, 3.35e6)
    ]
    assert all(row["note"].startswith("predicted for") for row in rows)
    assert "2.60 times eager's 13 passes" in rows[0]["detail"]


def test_compilations_are_told_by_kernel_chip_and_dtype(monkeypatch):
    def row(kernel, registers, wrong):
        about = {"arch": "sm_80", "dtype": "float32", "shared": 8}
        return about | {"kernel": kernel, "registers": registers, "wrong": wrong}

    told = {"rows": [row("apply", 30, []), row("sums", 40, ["spills"]), row("apply", 50, [])]}
    monkeypatch.setattr(kernels, "script", lambda *_: told)
    apply, sums = kernels.compiled(SimpleNamespace(full=True))
    assert (apply["provider"], apply["value"], apply["met"]) == ("apply", 0, True)
    assert apply["detail"].startswith("2 compilations, 50 registers")
    assert (sums["value"], sums["met"]) == (1, False)


def test_rows_are_written_and_what_is_missed_fails(tmp_path, monkeypatch, capsys):
    out = tmp_path / "k.csv"
    others = [Case(SMALL), Case(NAMED[0], "bfloat16"), Case(NAMED[0], channels_last=True)]
    monkeypatch.setattr(kernels, "cpu_cases", lambda: [Case(NAMED[0]), *others])
    times = {"fused": [1.0], "eager": [1.9]}
    monkeypatch.setattr(kernels, "on_cpu", lambda *_: times)
    words = ["--parts", "saved", "cpu", "--out", str(out)]
    monkeypatch.setattr(kernels, "SAVERS", dict.fromkeys(["fused", "eager"]))
    assert kernels.main([*words, "--json"]) == 1
    told = capsys.readouterr()
    rows = json.loads(told.out)
    timed = [row for row in rows if row["part"] == "cpu"]
    promised = [row for row in timed if row["wanted"] == ">= 2"]
    assert {(row["shape"], row["met"], row["value"]) for row in promised} == {
        ("16x64x32x32", False, 1.9)
    }
    rest = {(row["wanted"], row["met"]) for row in timed if row not in promised}
    assert rest == {(">= 0.95", True)}
    assert len(timed) == 4 * len(promised)
    assert f"{len(promised)} of {len(rows)} rows miss" in told.err
    with out.open() as file:
        written = list(csv.DictReader(file))
    assert tuple(written[0]) == kernels.COLUMNS
    assert len(written) == len(rows)
    assert all(row["device"] and row["torch"] and row["revision"] for row in written)
    times["fused"] = [0.5]
    assert kernels.main(words) == 0
    assert "3.8 speed ratio, wanted >= 2" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        kernels.parse(["--parts", "gpu"])
    assert "finds no GPU" in capsys.readouterr().err
    assert kernels.parse([])[0].parts == ["traffic", "compiled", "predicted", "saved", "cpu"]


def test_steps_run_both_kernels_in_turns(tmp_path, monkeypatch):
    def measure(todo, options, shards, folder):
        assert [v.config.train.norm_kernel for v in todo] == ["auto", "reference"]
        assert {v.config.train.global_batch for v in todo} == {16}
        found = []
        for speed, memory in ((12.0, 3.0), (10.0, 4.0)):
            ticks = [[{"samples_per_s": speed}, {"samples_per_s": speed}]] * 2
            found.append(throughput.Measured(ticks=ticks, memory_gib=[memory, memory - 1]))
        return found, {}

    monkeypatch.setattr(kernel_step, "pack_demo", lambda kind, size, folder: tmp_path)
    monkeypatch.setattr(throughput, "measure", measure)
    flags = ["--train.global-batch", "16"]
    chosen = SimpleNamespace(recipe=["dcgan_64"], steps=20, tick_steps=1, repeats=2)
    speed, memory = kernel_step.steps(chosen, flags)
    assert (speed["value"], speed["low"], speed["high"]) == (1.2, 1.2, 1.2)
    assert speed["detail"] == "12 and 10 samples/s"
    assert (memory["value"], memory["note"]) == (0.75, "dcgan_64")
    monkeypatch.setattr(throughput, "measure", lambda *_: ([], {1: "broken"}))
    with pytest.raises(throughput.RunFailedError, match="broken"):
        kernel_step.steps(chosen, flags)


@pytest.mark.gpu
def test_on_a_gpu():
    found = list(kernel_times.on_gpu(Case((16, 64, 32, 32)), torch.device("cuda")))
    names = {(name, direction) for name, direction, _, _ in found}
    for name in ("fused", "eager", "torch.compile"):
        assert {(name, d) for d in ("forward", "backward", "both")} <= names
    assert all(low <= middle <= high for *_, (middle, low, high) in found)
    assert kernel_times.copy_rate(torch.device("cuda")) > 1e11
