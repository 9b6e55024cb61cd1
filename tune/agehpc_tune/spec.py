"""What a sweep is: its files sweep.yaml, base.yaml and space.yaml, written once."""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from agehpc import __version__
from agehpc.config.schema import Config
from agehpc.config.section import Count, Positive, Section
from agehpc.config.text import dump, read_yaml
from agehpc.config.tree import explain, flatten
from agehpc.errors import RunError, UsageError
from agehpc.files import LOCK, unwritable, write_text
from agehpc_tune.objectives import Objective
from agehpc_tune.spaces import Space

SPEC, BASE, SPACE = "sweep.yaml", "base.yaml", "space.yaml"
_OURS = (SPEC, BASE, SPACE, LOCK, "ray", "logs", "control")
_FREE = ("max_concurrent", "versions", "cwd")
"""What may differ between the starts of a sweep."""


class Resources(Section):
    """What a trial takes."""

    ranks: Count = 1
    nodes: Count = 1
    cpus: Count = 1
    """Of all its ranks together."""
    gpus: Annotated[float, Field(ge=0)] = 0.0

    def bundle(self) -> dict[str, float]:
        """Return what a trial takes of each of its nodes, by Ray's names."""
        found = {"CPU": self.cpus / self.nodes}
        return found | ({"GPU": self.gpus / self.nodes} if self.gpus else {})


class Asha(Section):
    """Asynchronous successive halving on kimg."""

    grace_kimg: Positive
    reduction: Annotated[int, Field(ge=2)]


class Target(Section):
    """An objective."""

    name: str
    mode: Literal["min", "max"]


class Spec(Section):
    """A sweep; its base configuration has a file of its own, and its space one as it was given."""

    recipe: str
    search: str
    space: dict[str, Any]
    objectives: tuple[Target, ...]
    trials: Count
    seed: int
    asha: Asha | None
    resources: Resources
    max_concurrent: Count
    cwd: str
    """Folder that relative paths of the trials start from."""
    versions: dict[str, str]

    @property
    def targets(self) -> list[Objective]:
        """The objectives."""
        return [Objective(target.name, target.mode) for target in self.objectives]


def versions() -> dict[str, str]:
    """Return the versions that a sweep depends on."""
    found = {name: version(name) for name in ("ray", "optuna", "torch")}
    return {"agehpc": __version__, "python": sys.version.split()[0], **found}


def is_sweep(out: Path) -> bool:
    """Whether a directory holds a sweep."""
    return (out / SPEC).is_file()


def read(out: Path) -> tuple[Spec, Config, Space]:
    """Return the sweep of a directory; RunError where there is none, or it is damaged."""
    if not is_sweep(out):
        raise RunError(f"--out {out} holds no sweep to resume: it has no {SPEC}")
    try:
        spec = Spec.model_validate(read_yaml(out / SPEC))
        base = Config.model_validate(read_yaml(out / BASE))
    except ValidationError as error:
        raise RunError(f"{out} does not hold a sweep of this version: {explain(error)}") from None
    return spec, base, Space.load(out / SPACE, base)


def write(out: Path, spec: Spec, base: Config, space: Path) -> None:
    """Write the files of a sweep; the one that makes the directory a sweep comes last."""
    (out / "ray").mkdir(parents=True, exist_ok=True)
    write_text(out / BASE, dump(base))
    write_text(out / SPACE, space.read_text(encoding="utf-8"))
    rewrite(out, spec)


def rewrite(out: Path, spec: Spec) -> None:
    """Write a sweep down anew that goes on otherwise than it was started."""
    write_text(out / SPEC, dump(spec))


def check_out(out: Path, spec: Spec, base: Config) -> None:
    """Raise UsageError unless a directory is new, empty or holds this very sweep."""
    if reason := unwritable(out / SPEC):
        raise UsageError(f"--out {out}: {reason}")
    if not is_sweep(out):
        others = (
            sorted(p.name for p in out.iterdir() if p.name not in _OURS) if out.exists() else []
        )
        if others:
            raise UsageError(f"--out {out} holds {others[0]} but no sweep; give a new directory")
        return
    old_spec, old_base, _ = read(out)
    changed = [
        *_differences(_kept(old_spec), _kept(spec)),
        *_differences(_kept(old_base), _kept(base)),
    ]
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UsageError(
            f"--out {out} holds another sweep: {', '.join(changed[:4])}{more}; give a new "
            f"directory, or resume it as it is: agehpc tune --resume --out {out}"
        )


def _kept(section: Section) -> dict[str, Any]:
    return flatten(section.model_dump(mode="json", exclude=set(_FREE)))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} {_text(old.get(key))} -> {_text(new.get(key))}"
        for key in {**old, **new}
        if _text(old.get(key)) != _text(new.get(key))
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def absolute(base: Config) -> Config:
    """Return a configuration whose shards are named so that every folder finds them."""
    shards = base.data.shards

    def whole(name: str) -> str:
        return name if "://" in name or name.startswith("pipe:") else str(Path(name).resolve())

    found = whole(shards) if isinstance(shards, str) else tuple(map(whole, shards))
    return base.model_copy(update={"data": base.data.model_copy(update={"shards": found})})
