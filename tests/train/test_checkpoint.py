"""All of a checkpoint is read when training goes on from it: what is missing or odd is an error."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agehpc import checkpoints
from agehpc.config.run_files import read_run_config
from agehpc.config.schema import Config
from agehpc.errors import RunError
from agehpc.systems import build_system
from agehpc.systems.base import Collectives, System
from agehpc.train.checkpoint import restore_engines, restore_modules
from tests.latent.runs import pack_images
from tests.train.runs import newest, train_in_fork
from tests.train.small import flags

STEPS = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose critics keep an average too."""
    root = tmp_path_factory.mktemp("run")
    words = ["--players.critics.ema.half-life-kimg", "0.05"]
    arguments = flags(pack_images(root / "shards"), root / "run", STEPS, *words)
    code, _, errors = train_in_fork(arguments, root / "log")
    assert code == 0, errors
    return root / "run"


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(newest(run), tmp_path / "checkpoint")


def players(config: Config) -> tuple[System, dict[str, nn.Module]]:
    system = build_system(config, Collectives.alone())
    return system, system.build()


def test_every_tensor_and_counter_is_read(run: Path, checkpoint: Path):
    config = read_run_config(run)
    system, modules = players(config)
    progress = restore_modules(checkpoint, config, system, modules)
    assert (progress.step, progress.samples_read) == (STEPS, 4 * STEPS)
    for name, module in modules.items():
        saved = load_file(checkpoint / f"{name}.safetensors")
        assert saved.keys() == module.state_dict().keys()
        assert all(torch.equal(t, saved[n]) for n, t in module.state_dict().items())
    files = {path.name for path in checkpoint.iterdir()}
    own = {f"{name}{end}.safetensors" for name in modules for end in ("", ".optim")}
    averages = {"ema.safetensors", "critics.ema.safetensors"}
    assert files == own | averages | {"state.json", "manifest.json"}


class Recorded(dict[str, Tensor]):
    """Tensors, and which of them were looked at."""

    seen: set[str]

    def __getitem__(self, name: str) -> Tensor:
        self.seen.add(name)
        return super().__getitem__(name)

    def items(self) -> Any:
        self.seen.update(self)
        return super().items()


class Held:
    """An engine that takes what it is given."""

    def load_moments(self, moments: dict[str, Tensor], steps: int) -> None:
        for name in self.wanted:
            assert moments[name].shape

    def scatter(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(whole.items())

    def __init__(self, module: nn.Module) -> None:
        names = [name for name, _ in module.named_parameters()]
        self.wanted = [f"{n}.{m}" for n in names for m in ("exp_avg", "exp_avg_sq")]
        self.averages = dict.fromkeys(names)


def test_every_moment_and_average_is_read(
    run: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    system, modules = players(read_run_config(run))
    held: dict[str, Any] = {name: Held(module) for name, module in modules.items()}
    read: dict[str, Recorded] = {}

    def tensors(path: Path, name: str) -> Recorded:
        read[name] = Recorded(load_file(path / f"{name}.safetensors"))
        read[name].seen = set()
        return read[name]

    monkeypatch.setattr(checkpoints, "read_tensors", tensors)
    restore_engines(checkpoint, system, held, held, STEPS)
    rest = {path.stem for path in checkpoint.glob("*.safetensors")} - set(modules)
    assert set(read) == rest
    for name, found in read.items():
        assert found.seen == set(found), name
    for name, engine in held.items():  # the averages, of weights alone
        weights = {n for n, _ in modules[name].named_parameters()}
        assert set(engine.averages) == weights


def changed(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def do(checkpoint: Path) -> None:
        path = checkpoint / file
        if file == "state.json":
            state = json.loads(path.read_text())
            change(state)
            path.write_text(json.dumps(state))
            return
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return do


def first(tensors: dict[str, Any]) -> str:
    return min(tensors)


FILES = [
    f"{name}.safetensors"
    for name in ("autoencoder", "autoencoder.optim", "critics", "critics.optim", "ema")
] + ["critics.ema.safetensors"]


@pytest.mark.parametrize("file", [*FILES, "state.json"])
def test_what_is_added_or_removed_by_hand_is_named(run: Path, checkpoint: Path, file: str):
    config = read_run_config(run)
    system, modules = players(config)
    original = (checkpoint / file).read_bytes()
    value = 1 if file == "state.json" else torch.zeros(2)
    changed(file, lambda found: found.update(zzz=value))(checkpoint)
    with pytest.raises(RunError, match=f"{file} holds zzz, which nothing reads; .* delete it"):
        restore_modules(checkpoint, config, system, modules)
    for number in range(9 if file == "state.json" else 1):
        (checkpoint / file).write_bytes(original)
        gone: list[str] = []

        def remove(found: dict[str, Any], n: int = number, gone: list[str] = gone) -> None:
            gone.append(sorted(found)[n])
            del found[gone[0]]

        changed(file, remove)(checkpoint)
        with pytest.raises(RunError, match=rf"{file} lacks {gone[0]}; "):
            restore_modules(checkpoint, config, system, modules)


def test_files_that_nothing_reads_or_that_are_missing(run: Path, checkpoint: Path):
    config = read_run_config(run)
    system, modules = players(config)
    save_file({"x": torch.zeros(1)}, checkpoint / "other.safetensors")
    with pytest.raises(RunError, match="the folder holds other, which nothing reads"):
        restore_modules(checkpoint, config, system, modules)
    (checkpoint / "other.safetensors").unlink()
    (checkpoint / "critics.optim.safetensors").unlink()
    with pytest.raises(RunError, match=r"the folder lacks critics\.optim"):
        restore_modules(checkpoint, config, system, modules)


def test_what_a_system_does_not_know_is_an_error(run: Path, checkpoint: Path):
    system, modules = players(read_run_config(run))
    held: dict[str, Any] = {name: Held(module) for name, module in modules.items()}
    save_file({"x": torch.zeros(1)}, checkpoint / "system.safetensors")
    with pytest.raises(RunError, match=r"system\.safetensors holds x, which nothing reads"):
        restore_engines(checkpoint, system, held, held, STEPS)


def test_a_training_tells_it_in_one_line(run: Path, tmp_path: Path):
    out = shutil.copytree(run, tmp_path / "run")
    file = newest(out) / "critics.optim.safetensors"
    changed(file.name, lambda found: found.update(zzz=torch.zeros(1)))(file.parent)
    manifest = json.loads((file.parent / "manifest.json").read_text())
    content = file.read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"][file.name] = entry
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    arguments = flags(Path(read_run_config(out).data.where), out, 2 * STEPS)
    more = ["--players.critics.ema.half-life-kimg", "0.05"]
    code, _, errors = train_in_fork([*arguments, *more], tmp_path / "log")
    assert code == 1
    assert errors.startswith(f"error: {file.parent} is not what this run saves: ")
    assert errors.count("\n") == 1
