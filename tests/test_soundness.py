"""Every damage of a checkpoint shows, and the newest sound one is what counts."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agehpc import checkpoints
from agehpc.checkpoints import Damaged
from agehpc.errors import RunError
from agehpc.soundness import glance, newest_sound, verify


def save(run: Path, *steps: int) -> None:
    for step in steps:
        tensors = {"ema": {"w": torch.full((40,), float(step))}, "a.optim": {"m": torch.ones(9)}}
        checkpoints.write(run, step, tensors, {"step": step, "samples_seen": 4 * step})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path, 10, 20, 30)
    return tmp_path


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def manifest_says(path: Path, **more: object) -> None:
    told = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(told | more))


# What becomes of a checkpoint, whether sizes alone tell, and what the message names.
DAMAGES: dict[str, tuple[Callable[[Path], object], bool, str]] = {
    "last bit": (lambda p: flipped(p / "ema.safetensors", -1), False, "ema.safetensors differs"),
    "header": (lambda p: flipped(p / "ema.safetensors", 9), False, "ema.safetensors differs"),
    "moments": (lambda p: flipped(p / "a.optim.safetensors", -3), False, "a.optim.safetensors dif"),
    "counters": (lambda p: flipped(p / "state.json", 20), False, "state.json differs"),
    "truncated": (lambda p: os.truncate(p / "ema.safetensors", 50), True, "has 50 bytes"),
    "empty": (lambda p: os.truncate(p / "state.json", 0), True, "has 0 bytes"),
    "longer": (lambda p: (p / "state.json").write_text("{}" * 99), True, "has 198 bytes"),
    "missing": (lambda p: (p / "a.optim.safetensors").unlink(), True, "safetensors is missing"),
    "a folder": (
        lambda p: ((p / "state.json").unlink(), (p / "state.json").mkdir()),
        True,
        "state.json is missing",
    ),
    "empty manifest": (lambda p: os.truncate(p / "manifest.json", 0), True, "cannot be read"),
    "half a manifest": (lambda p: os.truncate(p / "manifest.json", 80), True, "cannot be read"),
    "garbage": (lambda p: (p / "manifest.json").write_bytes(b"\xff\0\x01"), True, "cannot be read"),
    "other JSON": (lambda p: (p / "manifest.json").write_text("[1]"), True, "cannot be read"),
    "no files": (lambda p: manifest_says(p, files={}), True, "is not the manifest of"),
    "odd files": (lambda p: manifest_says(p, files=[1, 2]), True, "cannot be read"),
    "no sums": (lambda p: manifest_says(p, files={"state.json": {}}), True, "cannot be read"),
    "another step": (lambda p: manifest_says(p, step=20), True, "is not the manifest of"),
    "no format": (lambda p: manifest_says(p, format=None), True, "has format None"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(run: Path, damage: str):
    spoil, by_size, message = DAMAGES[damage]
    newest = checkpoints.complete(run)[-1]
    verify(newest)
    spoil(newest)
    with pytest.raises(Damaged, match=message) as raised:
        verify(newest)
    assert str(newest) in str(raised.value)
    if by_size:
        with pytest.raises(Damaged, match=message):
            glance(newest)
    else:
        glance(newest)
    warnings: list[str] = []
    found = newest_sound(run, warnings.append)
    assert found == run / "checkpoints" / "step-00000020"
    (warning,) = warnings
    assert message in warning
    assert warning.endswith("passed over for step-00000020")
    assert newest.exists()


@settings(max_examples=40)
@given(st.data())
def test_any_flipped_bit_shows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    run = tmp_path_factory.mktemp("run")
    save(run, 1)
    (path,) = checkpoints.complete(run)
    verify(path)
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    content = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    with pytest.raises(RunError):
        verify(path)
    shutil.rmtree(run)


def test_what_is_passed_over_does_not_count_any_more(run: Path):
    """Else keep-last would keep it in the place of a sound one."""
    for name in ("step-00000020", "step-00000030"):
        flipped(run / "checkpoints" / name / "ema.safetensors", -1)
    warnings: list[str] = []
    found = newest_sound(run, warnings.append, repair=True)
    assert found == run / "checkpoints" / "step-00000010"
    for warning, name in zip(warnings, ("step-00000030", "step-00000020"), strict=True):
        assert warning.endswith(f"passed over for step-00000010, moved to {name}.damaged")
    save(run, 15)
    checkpoints.prune(run, 2)
    assert [path.name for path in checkpoints.complete(run)] == ["step-00000010", "step-00000015"]
    checkpoints.sweep(run)
    assert (run / "checkpoints" / "step-00000030.damaged" / "ema.safetensors").is_file()
    # The same step again, and damaged again.
    save(run, 20)
    flipped(run / "checkpoints" / "step-00000020" / "state.json", 3)
    assert newest_sound(run, warnings.append, repair=True).name == "step-00000015"  # type: ignore[union-attr]


def test_none_sound_is_no_new_run(run: Path):
    for path in checkpoints.complete(run):
        (path / "state.json").unlink()
    with pytest.raises(RunError, match=r"step-00000030/state\.json is missing.* none of the 3"):
        newest_sound(run, print, repair=True)
    assert len(checkpoints.complete(run)) == 3
    assert newest_sound(run / "empty", print) is None


def test_another_version_is_not_damage(run: Path):
    """Passing over it would throw away what a newer agehpc has trained."""
    newest = checkpoints.complete(run)[-1]
    manifest_says(newest, format="agehpc-checkpoint/9")
    with pytest.raises(RunError, match="this version reads") as raised:
        newest_sound(run, print)
    assert not isinstance(raised.value, Damaged)
