"""`agehpc evaluate RUN` and `agehpc evaluate --real A --fake B`: metrics of generated samples.

Imports nothing heavy, so that help answers at once.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from agehpc.cluster.environment import resolve
from agehpc.config.schema import Section
from agehpc.errors import EXIT_DONE, AgehpcError, UsageError
from agehpc.evaluate.compare import LOG, append, check_writable, side_by_side
from agehpc.evaluate.protocols import (
    OF_MODEL,
    PROTOCOLS,
    USUAL,
    Way,
    check_names,
    described,
    digest,
    figures,
)

if TYPE_CHECKING:
    import torch

    from agehpc.cluster.groups import Ranks
    from agehpc.evaluate.features.base import Extractor
    from agehpc.evaluate.measure import Figure
    from agehpc.evaluate.of_model import OfModel
    from agehpc.evaluate.sources import Source

MOST = 50_000  # samples that are generated unless more are asked for
Count = Annotated[int, Field(ge=1)]


class Opened(NamedTuple):
    """What is measured."""

    about: "dict[str, Any]"
    """For the rows."""
    metrics: "tuple[str, ...]"
    """Of sets of samples."""
    real: "Source | None"
    fake: "Source | None"
    """None where no metric is of sets."""
    own: "OfModel | None" = None

    @property
    def told(self) -> "list[str]":
        """Lines that say what is measured."""
        lines = []
        if self.fake is not None:
            against = (
                "" if self.real is None else f" against {self.real.count} of {self.real.where}"
            )
            lines.append(f"{self.fake.count} of {self.fake.where}{against}")
        return lines + ([] if self.own is None else [self.own.told])


class EvaluateFlags(Section):
    """Score what a run generates, or any two sets of samples; on as many ranks as are started."""

    metrics: tuple[str, ...] = ()
    """What to measure; `--metrics list` prints all there is. Default frechet_lite0, of clips
    frechet_lite0_frames."""
    real: str | None = None
    """Real samples: shards, a folder of pictures, a .npy or .npz file; default the run's shards."""
    fake: str | None = None
    """Generated samples, likewise; not with RUN."""
    split: Literal["train", "validation"] = "train"
    """Split of shards that are compared with."""
    n_real: Count | None = None
    """Real samples, evenly spaced over all; default all."""
    n_fake: Count | None = None
    """Generated samples; default of RUN as many as real ones, at most 50000, else all."""
    rebuilt_split: Literal["validation", "train"] = "validation"
    """Split of RUN's shards whose reconstructions and latents are measured."""
    n_rebuilt: Count | None = None
    """Samples of it, the first ones; default all."""
    checkpoint: str = "latest"
    """Checkpoint of RUN: latest, best (of a run trained with --evaluate.best), all, or a name as
    step-00001000."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of RUN's noise."""
    batch: Count = 32
    """Samples that a rank computes at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes the GPU of the local rank where there is one."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of a rank; 0 shares the cores among the node's ranks."""
    weights: tuple[str, ...] = ()
    """NAME=PATH: weights of an extractor that lie elsewhere, or are others than the published."""
    cache: str | None = None
    """Folder of the features of real samples; default $AGEHPC_CACHE/references, else
    ~/.cache/agehpc/references."""
    fresh: bool = False
    """Neither use the features that are kept there nor keep any."""
    allow_pipe: bool = False
    """Run the command of shards `pipe:COMMAND`."""
    prefetch: tuple[str, ...] = ()
    """Download the weights of these extractors, check them, and do nothing else."""
    compare: tuple[str, ...] = ()
    """Print the newest figures of --metrics of these runs side by side, and measure nothing."""
    json_: bool = False
    """Print the figures as JSON."""
    dry_run: bool = False
    """Open the samples, load the extractors, say what would be measured, and measure nothing."""


def main(argv: list[str]) -> int:
    """Run the command."""
    from agehpc.config.load import parse_command

    run = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    words = argv if run is None else argv[1:]
    env = resolve(os.environ)
    try:
        flags = parse_command(words, prog="agehpc evaluate [RUN]", model=EvaluateFlags)
        if flags.metrics == ("list",):
            return _list()
        check_names(flags.metrics)
        if flags.prefetch:
            return _prefetch(flags)
        if flags.compare:
            return _compare(flags)
        _check(run, flags)
    except AgehpcError as error:
        error.silent = env.rank > 0  # every rank meets the same error
        raise
    from agehpc.cluster.groups import process_group

    with process_group(env, flags.device, flags.threads) as ranks:
        return _evaluate(run, flags, ranks)


def _list() -> int:
    rows = {name: described(name) for name in PROTOCOLS}
    rows |= dict.fromkeys(OF_MODEL, "of a run's reconstructions and latents")
    width = max(map(len, rows))
    sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text in rows.items())
    return EXIT_DONE


def _prefetch(flags: EvaluateFlags) -> int:
    from agehpc.evaluate.weights import prefetch

    sys.stdout.writelines(f"{path}\n" for path in prefetch(flags.prefetch))
    return EXIT_DONE


def _compare(flags: EvaluateFlags) -> int:
    names = [name for metric in flags.metrics for name in figures(metric)]
    rows = side_by_side([Path(run) for run in flags.compare], names)
    if flags.json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return EXIT_DONE
    for row in rows:
        values = "  ".join(f"{run} {value:.6g}" for run, value in row["values"].items())
        sys.stdout.write(f"{row['metric']}  {values}  [{row['fingerprint']}]\n")
    return EXIT_DONE


def _check(run: Path | None, flags: EvaluateFlags) -> None:
    if run is None and flags.fake is None:
        raise UsageError(
            "name a run, agehpc evaluate RUN [flags], or samples: agehpc evaluate --real A --fake B"
        )
    if run is not None and flags.fake is not None:
        raise UsageError(f"--fake {flags.fake} and the run {run}: only one of them is scored")
    alone = [metric for metric in flags.metrics if metric in OF_MODEL]
    if run is None and alone:
        raise UsageError(f"--metrics {alone[0]} is of a run: agehpc evaluate RUN")
    metrics = [metric for metric in flags.metrics or USUAL.values() if metric in PROTOCOLS]
    used = {PROTOCOLS[metric].extractor for metric in metrics}
    used |= {"alexnet"} if "lpips" in alone else set()
    for text in flags.weights:
        name, _, path = text.partition("=")
        if not path or name not in used:
            raise UsageError(
                f"--weights {text}: NAME=PATH is wanted, NAME of what the metrics look through: "
                f"{', '.join(sorted(used)) or 'nothing'}"
            )


def _of_sets(flags: EvaluateFlags, kind: str) -> tuple[str, ...]:
    return tuple(metric for metric in flags.metrics or (USUAL[kind],) if metric in PROTOCOLS)


def _given(flags: EvaluateFlags) -> dict[str, Path]:
    return {name: Path(path) for name, _, path in (text.partition("=") for text in flags.weights)}


def _evaluate(run: Path | None, flags: EvaluateFlags, ranks: "Ranks") -> int:
    from agehpc.cluster.collectives import agreed, together
    from agehpc.evaluate import reference
    from agehpc.evaluate.check import check
    from agehpc.evaluate.measure import measure

    speaks = ranks.env.rank == 0
    cache = None if flags.fresh else Path(flags.cache or reference.folder())
    extractors: dict[Way, Extractor] = {}
    rows: list[dict[str, Any]] = []
    if run is not None and not flags.dry_run:
        together(lambda: check_writable(run))
    for checkpoint in agreed(lambda: _checkpoints(run, flags)):

        def opened(checkpoint: Path | None = checkpoint) -> "Opened":
            found = _opened(checkpoint, flags, ranks.device)
            if found.fake is not None:
                check(found.metrics, found.real, found.fake)
            for way in dict.fromkeys(PROTOCOLS[metric].way for metric in found.metrics):
                if way not in extractors:
                    extractors[way] = _extractor(way, flags, ranks.device)
            return found

        found = agreed(opened)
        if speaks and not flags.json_:
            sys.stdout.writelines(f"{line}\n" for line in found.told)
        if flags.dry_run:
            continue
        figures = []
        if found.fake is not None:
            given = found.metrics, found.real, found.fake, extractors
            figures += measure(*given, batch=flags.batch, cache=cache)
        if found.own is not None:
            figures += found.own.measure(flags.batch)
        rows += [found.about | _row(figure) for figure in figures]
        if speaks and not flags.json_:
            sys.stdout.writelines(map(_line, figures))
    if speaks and run is not None and rows:
        append(run / LOG, rows)
    if speaks and flags.json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    return EXIT_DONE


def _checkpoints(run: Path | None, flags: EvaluateFlags) -> list[Path | None]:
    """The checkpoints that are scored; None for samples that no run makes."""
    if run is None:
        return [None]
    from agehpc import best, checkpoints

    newest = best.find(run, "latest" if flags.checkpoint == "all" else flags.checkpoint)
    return list(checkpoints.complete(run)) if flags.checkpoint == "all" else [newest]


def _opened(checkpoint: Path | None, flags: EvaluateFlags, device: "torch.device") -> "Opened":
    """What is compared, opened: facts for its rows, real and generated samples."""
    from agehpc.evaluate.of_model import OfModel
    from agehpc.evaluate.sources import Source, of_data, of_run, open_source

    def at(place: str, count: int | None) -> Source:
        return open_source(place, flags.split, allow_pipe=flags.allow_pipe).part(count)

    real = None if flags.real is None else at(flags.real, flags.n_real)
    if checkpoint is None:
        assert flags.fake is not None
        fake = at(flags.fake, flags.n_fake)
        return Opened({}, _of_sets(flags, fake.kind), real, fake)
    from agehpc import checkpoints
    from agehpc.trained import load

    run = checkpoint.parent.parent
    model = load(run, checkpoint=checkpoint.name, device=device)
    state = checkpoints.read_state(checkpoint)
    about: dict[str, Any] = {"kimg": state["samples_seen"] / 1000, "step": state["step"]}
    about["checkpoint"] = checkpoint.name
    own = fake = None
    if alone := [metric for metric in flags.metrics if metric in OF_MODEL]:
        own = OfModel(alone, model, flags.rebuilt_split, flags.n_rebuilt, _given(flags))
    of_sets = _of_sets(flags, model.config.data.kind)
    if of_sets:
        if real is None and any(PROTOCOLS[metric].paired for metric in of_sets):
            real = of_data(model.config.data, flags.split).part(flags.n_real)
        count = flags.n_fake or min(MOST, MOST if real is None else real.count)
        fake = of_run(model, count, flags.seed, f"{run} at {checkpoint.name}")
    return Opened(about, of_sets, real, fake, own)


def _extractor(way: "Way", flags: EvaluateFlags, device: "torch.device") -> "Extractor":
    from agehpc.evaluate.features.base import build

    name, resize = way
    return build(name, device, _given(flags).get(name), resize)


def _row(figure: "Figure") -> dict[str, Any]:
    about = {"metric": figure.name, "value": figure.value, "samples": figure.n_fake}
    return about | figure.columns | {"time": time.time()}


def _line(figure: "Figure") -> str:
    spread = "" if figure.spread is None else f" +- {figure.spread:.4g}"
    return f"  {figure.name}  {figure.value:.6g}{spread}  [{digest(figure.fingerprint)}]\n"
