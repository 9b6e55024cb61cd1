"""Who may import whom, held over every file: absolute, relative, inside functions, by name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"agehpc": "agehpc", "agehpc_kernels": "kernels", "agehpc_tune": "tune"}
MAX_LINES = 400

# Third-party package -> the only modules (or packages) that import it.
ONLY_IN = {
    "deepspeed": ["agehpc.train.engines"],
    "ray": ["agehpc_tune"],
    "optuna": ["agehpc_tune"],
    "triton": ["agehpc_kernels"],
    "decord": ["agehpc.data.by_decord"],
    "webdataset": ["agehpc.data"],
}
# What answers `--help`, or runs where torch is not wanted.
WITHOUT_TORCH = [
    "agehpc.cli",
    "agehpc.errors",
    "agehpc.files",
    "agehpc.config",
    "agehpc.recipes",
    "agehpc.launch",
    "agehpc.heartbeat",
    "agehpc.run_status",
]
# Module or package -> what it may import of the project, besides itself. The longest name
# counts; what has no rule here may use everything but `agehpc.train`.
MAY_USE = {
    "agehpc.errors": [],
    "agehpc.files": ["agehpc.errors"],
    "agehpc.cli": ["agehpc.errors"],
    "agehpc.config": ["agehpc.errors", "agehpc.files"],
    "agehpc.config.commands": ["agehpc.cli"],
    # A recipe is where loading starts; recipes themselves use the settings alone.
    "agehpc.config.load": ["agehpc.config", "agehpc.errors", "agehpc.recipes"],
    "agehpc.config.show": ["agehpc.config", "agehpc.errors", "agehpc.recipes"],
    "agehpc.recipes": ["agehpc.config.schema", "agehpc.config.systems"],
    "agehpc.losses": [],
    "agehpc.models": ["agehpc.config", "agehpc.errors", "agehpc_kernels"],
    "agehpc.systems": ["agehpc.config", "agehpc.errors", "agehpc.losses", "agehpc.models"],
    "agehpc.data": ["agehpc.config", "agehpc.errors", "agehpc.files", "agehpc.cli"],
    "agehpc.cluster": ["agehpc.config", "agehpc.errors", "agehpc.files"],
    "agehpc.launch": [
        *("agehpc.config", "agehpc.errors", "agehpc.files", "agehpc.observe.environment"),
    ],
    "agehpc.observe": ["agehpc.config", "agehpc.errors", "agehpc.files"],
    "agehpc_kernels": [],
    "agehpc_tune": [
        *("agehpc.config", "agehpc.errors", "agehpc.files", "agehpc.recipes"),
        *("agehpc.evaluate.protocols", "agehpc.cluster.environment", "agehpc.observe.metrics"),
    ],
}
# Everything sees the version; the console script names its commands by these strings.
FREE = "agehpc"
NAMED_TRAIN = re.compile(r"agehpc\.train[\w.]*(:\w+)?")


def modules(root: Path) -> dict[str, Path]:
    """Map every module of the project to its file."""
    found = {}
    for package, folder in PACKAGES.items():
        base = root if package == folder else root / folder
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, wherever the import stands, with its line."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in known else base), node.lineno
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), node.lineno


def within(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def broken_rules(root: Path) -> list[str]:
    """Return a sentence for every import that is not allowed and every file that is too long."""
    known = modules(root)
    broken = []
    for module, path in known.items():
        rules = [name for name in MAY_USE if within(module, [name])]
        rule = max(rules, key=len, default=None)
        for name, line in imports(module, path, known):
            where = f"{path.relative_to(root)}:{line}: {module} imports {name}"
            top = name.partition(".")[0]
            if top in ONLY_IN and not within(module, ONLY_IN[top]):
                broken.append(f"{where}, which only {ONLY_IN[top][0]} may")
            if top == "torch" and (module == "agehpc" or within(module, WITHOUT_TORCH)):
                broken.append(f"{where}, but has to start without it")
            if top not in PACKAGES or name == FREE:
                continue
            if within(name, ["agehpc.train"]) and not within(module, ["agehpc.train"]):
                broken.append(f"{where}, which only the command line uses")
            elif rule is not None and not within(name, [*MAY_USE[rule], rule]):
                broken.append(f"{where}; {rule} may use {', '.join(MAY_USE[rule]) or 'nothing'}")
        if module != "agehpc.cli" and not within(module, ["agehpc.train"]):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and NAMED_TRAIN.fullmatch(str(node.value)):
                    broken.append(f"{path.relative_to(root)}:{node.lineno}: names {node.value}")
    return broken + too_long(root)


def too_long(root: Path) -> list[str]:
    folders = (*PACKAGES.values(), "benchmarks", "tests")
    files = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    counts = {path: len(path.read_text().splitlines()) for path in files}
    return [
        f"{path.relative_to(root)} has {count} lines, more than {MAX_LINES - 1}"
        for path, count in counts.items()
        if count >= MAX_LINES
    ]


def test_the_project_keeps_its_rules():
    assert {"agehpc.cli", "agehpc.config.schema", "agehpc_kernels"} <= set(modules(ROOT))
    assert broken_rules(ROOT) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "agehpc/train/loop.py",
            "import deepspeed",
            "imports deepspeed, which only agehpc.train.eng",
        ),
        (
            "agehpc/models/net.py",
            "from triton import jit",
            "imports triton, which only agehpc_kernels",
        ),
        (
            "agehpc/data/loader.py",
            "def f():\n    import decord",
            "loader.py:2: agehpc.data.loader imp",
        ),
        ("agehpc/observe/x.py", "import webdataset as w", "which only agehpc.data may"),
        ("agehpc/evaluate/x.py", "import ray.tune", "imports ray.tune, which only agehpc_tune may"),
        ("agehpc/config/x.py", "def f():\n    from torch import nn", "has to start without it"),
        ("agehpc/__init__.py", "import torch", "has to start without it"),
        ("agehpc/recipes/x.py", "if a:\n    import torch.nn", "has to start without it"),
        ("agehpc/config/schema.py", "from agehpc.recipes import RECIPES", "agehpc.config may use"),
        (
            "agehpc/config/schema.py",
            "from ..recipes import RECIPES",
            "imports agehpc.recipes; agehpc.c",
        ),
        ("agehpc/errors.py", "from agehpc import config", "agehpc.errors imports agehpc.config"),
        ("agehpc/errors.py", "from . import config", "agehpc.errors imports agehpc.config"),
        ("agehpc/losses/x.py", "import agehpc.models", "agehpc.losses may use nothing"),
        ("agehpc/systems/x.py", "import agehpc.cluster", "agehpc.systems may use agehpc.config"),
        (
            "agehpc/evaluate/x.py",
            "from agehpc.train import loop",
            "which only the command line uses",
        ),
        ("agehpc/doctor.py", "from agehpc import train", "which only the command line uses"),
        ("agehpc/doctor.py", "__import__('agehpc.train')", "imports agehpc.train, which only"),
        ("agehpc/doctor.py", "x = 'agehpc.train.loop:main'", "names agehpc.train.loop:main"),
        ("kernels/agehpc_kernels/x.py", "import agehpc.config", "agehpc_kernels may use nothing"),
        ("tune/agehpc_tune/x.py", "import agehpc.train.loop", "which only the command line uses"),
        ("tests/x.py", "\n" * 400, "tests/x.py has 400 lines, more than 399"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, text, message):
    for package in ("config", "recipes", "train", "models", "cluster"):
        (tmp_path / "agehpc" / package).mkdir(parents=True)
        (tmp_path / "agehpc" / package / "__init__.py").touch()
    assert broken_rules(tmp_path) == []
    planted = tmp_path / file
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(text)
    (broken, *_) = broken_rules(tmp_path)
    assert message in broken


def test_what_the_rules_allow_is_not_reported(tmp_path):
    allowed = {
        "agehpc/train/engines.py": "import deepspeed\nfrom agehpc.models import net\n",
        "agehpc/train/loop.py": "from agehpc.train.engines import x\nfrom . import engines\n",
        "agehpc/cli.py": "from agehpc import __version__\nTARGET = 'agehpc.train.command:main'\n",
        "agehpc/config/schema.py": "from agehpc.errors import ConfigError\nimport numpy\n",
        "agehpc/data/by_decord.py": "import decord, webdataset, torch\n",
        "agehpc/models/net.py": "import agehpc_kernels.ops\nfrom agehpc.models import blocks\n",
        "kernels/agehpc_kernels/ops.py": "import triton\nfrom agehpc_kernels import reference\n",
        "tune/agehpc_tune/run.py": "import ray\nfrom agehpc.recipes import RECIPES\n",
    }
    for file, text in allowed.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert broken_rules(tmp_path) == []
