"""The flags of `agehpc launch`, apart from those that go on to `agehpc train`."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from agehpc.config.load import load, parse_command
from agehpc.config.schema import Section
from agehpc.errors import UsageError

Count = Annotated[int, Field(ge=1)]
OneLine = Annotated[str, Field(pattern=r"^[^\n]+$")]


class LaunchFlags(Section):
    """Submit `agehpc train RECIPE [train flags] --out RUN` as a Slurm job."""

    nodes: Count = 1
    """Nodes of the job."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs of a node, each with a rank; 0 trains on CPUs."""
    tasks_per_node: Count = 1
    """Ranks of a node without GPUs."""
    cpus_per_task: Count | None = None
    """CPUs of a rank; default what the cluster gives."""
    time: OneLine | None = None
    """Time limit as sbatch reads it: 12:00:00, 2-0. Default the partition's."""
    partition: OneLine | None = None
    """Partition, or several with commas."""
    account: OneLine | None = None
    """Account that is charged."""
    name: OneLine | None = None
    """Name of the job; default agehpc-RUN."""
    sbatch: tuple[OneLine, ...] = ()
    """Further options of sbatch without their dashes: exclusive mem=0 constraint=a100."""
    grace_s: Count = 300
    """Seconds before the time limit at which the run saves."""
    chain: Count | None = None
    """Where a job may not requeue itself: submit this many, each waits for the one before; those
    left when the run is done end at once."""
    site: OneLine | None = None
    """slurm/sites/NAME.sh, read before the ranks start; default $AGEHPC_SITE."""
    environment: Literal["path", "venv", "pyxis", "apptainer"] | None = None
    """Where the ranks find agehpc (path: on PATH); default $AGEHPC_ENVIRONMENT, else where this
    command runs."""
    image: OneLine | None = None
    """Image of the container; default $AGEHPC_IMAGE."""
    mounts: OneLine | None = None
    """Folders that it sees besides the run and the submit folder; default $AGEHPC_MOUNTS."""
    launcher: Literal["srun", "torchrun"] | None = None
    """One task a rank, or one a node; default $AGEHPC_LAUNCHER, else srun."""
    no_check: bool = False
    """Leave out `agehpc train --dry-run`, where a login node cannot read the data."""
    prepare: bool = False
    """In a job: write RUN/submit.sh and print the words that start it, one a line."""
    dry_run: bool = False
    """Print the batch script, write and submit nothing."""
    json_: bool = False
    """Print what was done as JSON."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node."""
        return self.gpus_per_node or self.tasks_per_node


class _TrainFlags(Section):
    out: str | None = None


class Launch(NamedTuple):
    """A command line, taken apart."""

    recipe: str
    train: list[list[str]]
    """The flags of `agehpc train`, each with its values, checked."""
    out: str
    flags: LaunchFlags

    @property
    def config(self) -> str | None:
        """The file of --config; the last one given counts."""
        return _last(self.train, "--config")


def parse(argv: list[str]) -> Launch:
    """Take `RECIPE [flags of launch and of train]` apart; UsageError for anything wrong."""
    names = {"--" + key.removesuffix("_").replace("_", "-") for key in LaunchFlags.model_fields}
    if not argv or argv[0].startswith("-"):
        parse_command(argv, prog="agehpc launch RECIPE", model=LaunchFlags)  # leaves for --help
        raise UsageError("name a recipe first: agehpc launch RECIPE --out RUN [flags]")
    recipe, *words = argv
    groups = _groups(words)
    own = [group for group in groups if group[0] in (*names, "-h", "--help")]
    train = [group for group in groups if group not in own]
    prog = f"agehpc launch {recipe}"
    flags = parse_command(_flat(own), prog=prog, model=LaunchFlags)
    out = load([recipe, *_flat(train)], prog=prog, extra=_TrainFlags).extra.out
    if out is None:
        raise UsageError("--out is not set: give the run directory")
    return Launch(recipe, train, out, flags)


def _groups(words: Sequence[str]) -> list[list[str]]:
    """Each flag with the words that follow it; `--a=b` is `--a b`."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or word == "-h":
            name, equals, value = word.partition("=")
            groups.append([name, value] if equals else [name])
        elif groups:
            groups[-1].append(word)
        else:
            raise UsageError(f"unexpected word {word!r} after the recipe")
    return groups


def _flat(groups: list[list[str]]) -> list[str]:
    return [word for group in groups for word in group]


def _last(groups: list[list[str]], name: str) -> str | None:
    values = [group[1] for group in groups if group[0] == name and len(group) > 1]
    return values[-1] if values else None
