"""The configuration that a run directory keeps."""

from pathlib import Path

from pydantic import ValidationError

from agehpc import __version__
from agehpc.config.schema import Config, identity, identity_hash
from agehpc.config.text import dump, read_yaml
from agehpc.config.tree import FIXED, explain, flatten
from agehpc.errors import ConfigError, RunError
from agehpc.files import write_text

NAME = "config.yaml"


def write_run_config(run_dir: str | Path, config: Config) -> None:
    """Write RUN/config.yaml atomically; a comment in it holds the run's hash."""
    head = f"# agehpc {__version__}, hash {identity_hash(config)}\n"
    write_text(Path(run_dir) / NAME, head + dump(config))


def read_run_config(run_dir: str | Path) -> Config:
    """Return the configuration a run was started with; RunError if it is missing or damaged."""
    path = Path(run_dir) / NAME
    if not path.is_file():
        raise RunError(f"{run_dir} is no run directory: it has no {NAME}")
    try:
        # From a file of our own: JSON's lists are the tuples that were dumped.
        return Config.model_validate(read_yaml(path))
    except ConfigError as error:
        raise RunError(str(error)) from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunError(
            f"{path} does not describe a run of this version ({__version__}): "
            f"{f'{where}: ' if where else ''}{explain(error)}"
        ) from None


def is_same_run(run_dir: str | Path, config: Config) -> bool:
    """Return whether RUN holds this run already, False where it holds none.

    RunError, naming the keys that differ, where it holds another: by `schema.identity`. The
    data's id must be filled in.
    """
    if not (Path(run_dir) / NAME).is_file():
        return False
    old, new = flatten(identity(read_run_config(run_dir))), flatten(identity(config))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        changed.sort(key=lambda key: key not in FIXED)  # another system first, then its settings
        listed = ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in changed[:6])
        more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
        raise RunError(
            f"{run_dir} holds another run: {listed}{more}; "
            "give a new directory with --out, or the settings it was started with"
        )
    return True
