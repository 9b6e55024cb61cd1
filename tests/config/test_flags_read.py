"""Every leaf of the configuration and every flag of a command is read by the code it is for.

By the names under which the code holds a section: `data.frames` counts for DataConfig, and the
`frames` of anything else does not.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest

import agehpc
from agehpc.config import schema, systems
from agehpc.config.section import Section
from agehpc.config.systems import SystemConfig
from agehpc.config.tree import FIXED

ROOT = Path(agehpc.__file__).parent
HOLDERS = {
    "Config": {"config", "_config", "loaded"},
    "RunConfig": {"run"},
    "DataConfig": {"data", "_data"},
    "ModelConfig": {"model"},
    "NetworkConfig": {"net"},
    "DenseConfig": {"net"},
    "PatchConfig": {"net"},
    "UnetConfig": {"net"},
    "ResnetConfig": {"net"},
    "LatentNetworkConfig": {"net"},
    "PlayerConfig": {"player", "players"},
    "OptimConfig": {"optim"},
    "ZeroConfig": {"zero"},
    "EmaConfig": {"ema", "settings"},
    "TrainConfig": {"train"},
    "GuardConfig": {"guard"},
    "EvaluateConfig": {"evaluate"},
    "ObserveConfig": {"observe"},
    "ClusterConfig": {"cluster"},
    "SystemConfig": {"s", "settings", "system"},
}
"""Section -> what variables and attributes of its type are called."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def last_name(node: ast.expr) -> str:
    """`data` of `self.config.data`, `players` of `config.players[name]`."""
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    return getattr(node, "attr", getattr(node, "id", ""))


@cache
def reads(path: Path) -> frozenset[tuple[str, str]]:
    """What is read in a file: holder and attribute."""
    return frozenset(
        (last_name(node.value), node.attr)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


@cache
def words(path: Path) -> frozenset[str]:
    """The names that a file uses."""
    return frozenset(last_name(n) for n in ast.walk(tree(path)) if isinstance(n, ast.Name))


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file takes names from."""
    nodes = [n for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom)]
    return frozenset(n.module for n in nodes if n.module)


@cache
def outside() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path.parent != ROOT / "config"]


def module_files(name: str) -> set[Path]:
    """The file of a system's module and those of its package that it imports, in turn."""
    found: set[Path] = set()
    waiting = [name]
    while waiting:
        path = ROOT / Path(*waiting.pop().split(".")[1:]).with_suffix(".py")
        if path in found or not path.is_file():
            continue
        found.add(path)
        modules = [n.module for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom)]
        waiting += [m for m in modules if m and m.startswith("agehpc.systems.")]
    return found


def held_as(section: type[Section]) -> set[str]:
    for kind in section.__mro__:
        if names := HOLDERS.get(kind.__name__):
            return names
    raise AssertionError(f"{section.__name__} is no section that this test knows: add it")


def properties(section: type[Section]) -> dict[str, set[str]]:
    """Leaf -> the properties of a section that read it."""
    found: dict[str, set[str]] = defaultdict(set)
    for kind in section.__mro__:
        if not issubclass(kind, Section) or kind is Section:
            continue
        body = tree(Path(str(sys.modules[kind.__module__].__file__))).body
        (written,) = [n for n in body if isinstance(n, ast.ClassDef) and n.name == kind.__name__]
        for member in written.body:
            names = [last_name(d) for d in getattr(member, "decorator_list", ())]
            if isinstance(member, ast.FunctionDef) and "property" in names:
                for node in ast.walk(member):
                    if isinstance(node, ast.Attribute) and last_name(node.value) == "self":
                        found[node.attr].add(member.name)
    return found


def unread(section: type[Section]) -> Iterator[str]:
    """The fields of a section that nothing reads."""
    files = set(outside())
    if issubclass(section, SystemConfig):
        own = module_files(section.code.partition(":")[0])
        shared = {path for path in files if path.parent != ROOT / "systems"}
        files = own | shared
    names = held_as(section)
    found = {attr for path in files for holder, attr in reads(path) if holder in names}
    found |= {  # the plan is arithmetic of the configuration
        attr for holder, attr in reads(ROOT / "config" / "plan.py") if holder in names
    }
    through = properties(section)
    fixed = {key.rpartition(".")[2] for key in FIXED} | {"kind"}
    for field in section.model_fields:
        if not ({field, *through.get(field, ())} & found or field in fixed):
            yield field


def sections() -> list[type[Section]]:
    """The sections of the configuration: of systems those that can be chosen."""
    found, waiting = [], list(Section.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        mixed_in = kind in (SystemConfig, systems.Game) or kind.__name__.startswith("_")
        here = kind.__module__.startswith("agehpc.config.")
        if here and not mixed_in and not kind.__name__.endswith("Flags"):
            found.append(kind)
    return found


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_leaf_is_read(section: type[Section]):
    assert list(unread(section)) == []


def test_what_nothing_reads_is_found():
    """Also where something else of that name is read."""

    class Observe(schema.ObserveConfig):
        frames: int = 0
        nothing: int = 0

    class Gan(systems.SystemConfig):
        code: ClassVar = ""
        kl_form: str = ""

    Gan.code = systems.GanSystem.code
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "properties", lambda section: {})
        assert list(unread(Observe)) == ["frames", "nothing"]
        assert list(unread(Gan)) == ["kl_form"]


@cache
def flag_classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (path, node)
        for path in outside()
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Flags")
    ]


@pytest.mark.parametrize(
    ("path", "flags"), flag_classes(), ids=[node.name for _, node in flag_classes()]
)
def test_every_flag_of_a_command_is_read(path: Path, flags: ast.ClassDef):
    """In the file that declares it, or one that uses it, what it is made from or made into."""
    names = {flags.name, *(last_name(base) for base in flags.bases)} - {"Section"}
    module = ".".join(["agehpc", *path.relative_to(ROOT).with_suffix("").parts])
    files = {path, *(other for other in outside() if module in imported(other))}
    commands = [m for m in imported(path) if m.endswith(".command")]  # that flags are handed to
    files |= {ROOT / Path(*m.split(".")[1:]).with_suffix(".py") for m in commands}
    for _ in range(2):  # classes made from it, and where these are used
        for other in outside():
            if names & words(other):
                files.add(other)
        names |= {
            node.name
            for _, node in flag_classes()
            if names & {last_name(base) for base in node.bases}
        }
    holders = {"flags", "_flags", "extra", "self", "asked", "given"}
    found = {attr for file in files for holder, attr in reads(file) if holder in holders}
    fields = [
        node.target.id
        for node in flags.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert [field for field in fields if field not in found and field != "model_config"] == []
