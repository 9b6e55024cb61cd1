"""No file that is read can run code: held over every call of the project that loads something."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_imports import ROOT, modules

# Loaders that run what a file says, whatever their arguments.
NEVER = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.package"}
NEVER |= {"marshal.load", "marshal.loads", "shelve.open", "joblib.load", "dill.load", "dill.loads"}
# DeepSpeed's own checkpoints are unpickled.
METHODS = {"load_checkpoint", "load_module_state_dict"}
# TorchScript, whose operators are torch's own; the published file, by its checksum.
ALLOWED = {ROOT / "agehpc" / "evaluate" / "features" / "i3d.py": "torch.jit.load"}


def unsafe(source: str) -> Iterator[str]:
    """Yield every call that might run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in NEVER or name.rpartition(".")[2] in METHODS:
            yield f"{node.lineno}: {name}"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"{node.lineno}: {name} without weights_only=True"
        if given.get("allow_pickle", "False") != "False":
            yield f"{node.lineno}: {name} with allow_pickle"


def test_nothing_that_is_read_runs_code():
    paths = [*modules(ROOT).values(), *(ROOT / "benchmarks").rglob("*.py")]
    assert ROOT / "agehpc" / "checkpoint_convert.py" in paths
    found = [(path, call) for path in paths for call in unsafe(path.read_text())]
    assert [f"{p}:{call}" for p, call in found if not call.endswith(ALLOWED.get(p, "-"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "engine.load_checkpoint(folder)",
    ],
)
def test_the_test_sees(source: str):
    assert list(unsafe(source))


def test_weights_come_from_safetensors_alone():
    """Torch's own files are read in three places: what others made."""
    readers = [
        path.relative_to(ROOT)
        for path in modules(ROOT).values()
        if "torch.load(" in path.read_text()
    ]
    assert sorted(readers) == [
        Path("agehpc/checkpoint_convert.py"),
        Path("agehpc/evaluate/features/base.py"),
        Path("agehpc/evaluate/pictures.py"),
    ]
