"""`agehpc checkpoint`: what it lists, what it finds damaged, and what goes in and out as files."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import agehpc
from agehpc import best as bests
from agehpc import checkpoints
from agehpc.best import Best
from agehpc.checkpoint_convert import read_torch, state_dict
from agehpc.cli import main
from agehpc.config.run_files import read_run_config
from agehpc.errors import RunError, UsageError
from agehpc.train.engines import import_deepspeed
from agehpc.trained import Model
from tests.latent.runs import figures, make_run, pack_images, refusal
from tests.ranks import run_ranks

PSNR = "reconstruction_psnr_db"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def run(shards: Path, tmp_path: Path) -> Path:
    """Three checkpoints, the second of them the best."""
    made = make_run(tmp_path / "run", shards)
    first = checkpoints.complete(made)[0]
    tensors = {p.stem: load_file(p) for p in first.glob("*.safetensors")}
    for step in (2, 3):
        tensors["ema"] = {name: t + t.is_floating_point() for name, t in tensors["ema"].items()}
        checkpoints.write(made, step, tensors, {"step": step, "samples_seen": 8 * step})
    rows = [(1, 10.0), (2, 12.5), (3, 11.0)]
    lines = [{"kimg": s / 125, "step": s, "metric": PSNR, "value": v} for s, v in rows]
    (made / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    bests.write(made, Best(PSNR, 12.5, 2, 0.016))
    return made


def test_list(run: Path, capsys: pytest.CaptureFixture[str]):
    newest = checkpoints.complete(run)[-1]
    with (newest / "critics.safetensors").open("ab") as file:
        file.write(b"x")
    shutil.copytree(newest, newest.with_name("step-00000009.damaged"))
    rows = figures(capsys, "checkpoint", "list", run)
    assert [(row["step"], row["state"], row["best"]) for row in rows] == [
        (1, "complete", False),
        (2, "complete", True),
        (3, "damaged", False),
        (9, "set aside", False),
    ]
    assert rows[1]["kimg"] == 0.016
    assert rows[1]["figures"] == {PSNR: 12.5}
    there = run / "checkpoints" / "step-00000002"
    assert rows[1]["bytes"] == sum(p.stat().st_size for p in there.iterdir())
    assert main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("step-00000002          kimg 0.016  ")
    assert lines[1].endswith(f"complete  best  {PSNR} 12.5")
    assert "damaged  " in lines[2]
    assert f"critics.safetensors has {(newest / 'critics.safetensors').stat().st_size}" in lines[2]


def test_verify(run: Path, capsys: pytest.CaptureFixture[str]):
    assert all(row["sound"] for row in figures(capsys, "checkpoint", "verify", run))
    file = run / "checkpoints" / "step-00000002" / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["checkpoint", "verify", str(run)]) == 1
    told = capsys.readouterr()
    assert told.err == "error: 1 of 3 damaged: step-00000002\n"
    lines = told.out.splitlines()
    assert (lines[0], lines[2]) == ("step-00000001  sound", "step-00000003  sound")
    assert lines[1].startswith(f"step-00000002  {file} differs from its checksum")
    assert main(["checkpoint", "verify", str(run), "--checkpoint", "latest"]) == 0
    assert main(["checkpoint", "verify", str(run), "--checkpoint", "best", "--json"]) == 1
    # Sizes are right: only `verify` sees it.
    assert figures(capsys, "checkpoint", "list", run)[1]["state"] == "complete"


def test_export_is_the_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told = figures(capsys, "checkpoint", "export", run, "--checkpoint", "best")
    out = run / "export" / "step-00000002.safetensors"
    assert told["paths"] == [str(out)]
    alone = shutil.move(out, tmp_path / "model.safetensors")
    wanted = agehpc.load(run, checkpoint="best")
    shutil.rmtree(run)
    model = agehpc.load(alone)
    assert model.config == wanted.config
    assert torch.equal(model.sample(3, seed=1), wanted.sample(3, seed=1))
    x_BCS = torch.rand(2, 1, 16, 16)
    assert torch.equal(model.reconstruct(x_BCS), wanted.reconstruct(x_BCS))
    with pytest.raises(UsageError, match="no discriminators"):
        model.critique(x_BCS)


def test_export_says_what_it_would_do(run: Path, capsys: pytest.CaptureFixture[str]):
    told = figures(capsys, "checkpoint", "export", run, "--dry-run")
    assert told["would_write_to"] == str(run / "export" / "step-00000003.safetensors")
    assert not (run / "export").exists()
    assert "ends in .safetensors" in refusal(capsys, "checkpoint", "export", run, "--out", "m.pt")


def test_to_torch_and_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pt, back = tmp_path / "model.pt", tmp_path / "model.safetensors"
    figures(capsys, "checkpoint", "convert", run, "--out", pt)
    wanted = agehpc.load(run)
    state = torch.load(pt, weights_only=True)
    assert state.keys() == wanted.state().keys()
    whole = sum(t.numel() * t.element_size() for t in state.values())
    assert pt.stat().st_size < 2 * whole + 100_000  # no storage is written twice
    figures(capsys, "checkpoint", "convert", pt, "--like", run, "--out", back)
    assert torch.equal(agehpc.load(back).sample(2), wanted.sample(2))
    assert main(["checkpoint", "convert", str(back), "--out", str(tmp_path / "again.pth")]) == 0
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_one_player_for_its_module(run: Path, tmp_path: Path):
    pt = tmp_path / "critics.pt"
    words = ["checkpoint", "convert", str(run), "--player", "critics", "--out", str(pt)]
    assert main(words) == 0
    critics = Model(read_run_config(run)).judges["critics"]
    critics.load_state_dict(torch.load(pt, weights_only=True))
    stored = load_file(checkpoints.complete(run)[-1] / "critics.safetensors")
    assert all(torch.equal(t, stored[name]) for name, t in critics.state_dict().items())


@pytest.mark.parametrize("place", ["module", "state_dict", "mine", "ddp"])
def test_where_trainers_keep_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
):
    """Names without their player, among counters, in half precision."""
    state = {
        name.removeprefix("autoencoder."): t.half() if t.is_floating_point() else t
        for name, t in agehpc.load(run).state().items()
    }
    held = {f"module.{n}": t for n, t in state.items()} if place == "ddp" else {place: state}
    pt = tmp_path / "theirs.ckpt"
    torch.save(held if place == "ddp" else held | {"epoch": 3, "args": {"lr": 0.1}}, pt)
    words = [*("checkpoint", "convert", pt, "--like", run), *("--out", tmp_path / "m.safetensors")]
    if place == "mine":
        assert "holds mine; name the one to take with --key" in refusal(capsys, *words)
        words += ["--key", "mine"]
    figures(capsys, *words)
    found = agehpc.load(tmp_path / "m.safetensors").state()
    for name, tensor in state.items():
        assert torch.equal(found[f"autoencoder.{name}"], tensor.float().to(found_dtype(tensor)))


def found_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def save_by_deepspeed(_ranks: object, folder: str) -> None:
    deepspeed = import_deepspeed(torch.device("cpu"))
    for stage in (2, 3):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
        torch.save(module.state_dict(), Path(folder) / "wanted.pt")
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=torch.optim.AdamW(module.parameters()),
            config={
                "train_batch_size": 1,
                "zero_optimization": {"stage": stage},
                "zero_allow_untested_optimizer": True,
            },
            dist_init_required=False,
        )
        engine.save_checkpoint(folder, tag=f"stage-{stage}")


@pytest.mark.slow  # imports DeepSpeed in a process of its own
def test_what_deepspeed_saves(tmp_path: Path):
    """Read without its own loader, which unpickles whatever is there."""
    run_ranks(1, "tests.test_checkpoint_command:save_by_deepspeed", str(tmp_path))
    (path,) = (tmp_path / "stage-2").glob("*model_states.pt")
    wanted = torch.load(tmp_path / "wanted.pt", weights_only=True)
    found = state_dict(path, None)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    (path,) = (tmp_path / "stage-3").glob("*model_states.pt")
    with pytest.raises(RunError, match=r"zero_to_fp32\.py"):
        state_dict(path, None)


class Malicious:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4", "beside weights"])
def test_a_malicious_pickle_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
):
    ran, evil = tmp_path / "ran", tmp_path / "evil.pt"
    payload = {"state_dict": {"w": torch.ones(2)}, "hook": Malicious(str(ran))}
    if form.startswith("pickle"):
        evil.write_bytes(pickle.dumps(payload["hook"], protocol=int(form[-1])))
    else:
        torch.save(payload if form == "beside weights" else Malicious(str(ran)), evil)
    if form == "legacy":
        torch.save(payload, evil, _use_new_zipfile_serialization=False)
    words = ["--like", run, "--out", tmp_path / "m.safetensors"]
    told = refusal(capsys, "checkpoint", "convert", evil, *words)
    if form == "pickle 4":  # which torch.save does not write, and torch's own reader cannot read
        assert f"error: {evil} is no file of torch.save" in told
    else:
        assert told.startswith(f"error: {evil} is refused: loading it would run code")
        assert "mkdir" in told
    assert not ran.exists()
    assert not (tmp_path / "m.safetensors").exists()
    if form.startswith("pickle"):
        pickle.loads(evil.read_bytes())
    else:
        torch.load(evil, weights_only=False)
    assert ran.exists()  # as it would have


def test_what_cannot_be_read(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for content in (b"", b"not a file of torch.save", b"\x80\x02", b"PK\x03\x04" + bytes(99)):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(RunError, match=r"x\.pt is no file of torch.save, or is damaged"):
            read_torch(tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(RunError, match="holds a list"):
        read_torch(tmp_path / "x.pt")
    with pytest.raises(RunError, match="is not there"):
        read_torch(tmp_path / "y.pt")
    (tmp_path / "x.safetensors").write_bytes(b"none")
    with pytest.raises(RunError, match="is no safetensors file"):
        agehpc.load(tmp_path / "x.safetensors")
    critics = checkpoints.complete(run)[0] / "critics.safetensors"
    with pytest.raises(RunError, match="no configuration in its header"):
        agehpc.load(critics)
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt")
    out = ["--out", tmp_path / "m.safetensors"]
    told = refusal(capsys, "checkpoint", "convert", tmp_path / "x.pt", "--like", run, *out)
    assert "differs in autoencoder." in told
    assert "--like is not set" in refusal(capsys, "checkpoint", "convert", tmp_path / "x.pt", *out)
    assert "--out is not set" in refusal(capsys, "checkpoint", "convert", run)
    told = refusal(capsys, "checkpoint", "convert", run, "--out", tmp_path / "m.zip")
    assert f"{run} to {tmp_path / 'm.zip'}: " in told
    told = refusal(capsys, "checkpoint", "list", tmp_path)
    assert f"{tmp_path} has no complete checkpoint" in told
    assert "is no run directory" in refusal(capsys, "checkpoint", "list", tmp_path / "none")
