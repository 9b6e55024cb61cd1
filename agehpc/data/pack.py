"""Packing: sources to a folder of shards, whole or not at all."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

from agehpc.data import journal as journals
from agehpc.data.encode import encode_many, is_grey
from agehpc.data.journal import Journal, Outcome, key_of, locked, unfinished_of
from agehpc.data.labels import class_names
from agehpc.data.pieces import Piece, Reject, Settings
from agehpc.data.processes import Failed, mapped
from agehpc.data.shards import (
    FORMAT,
    MANIFEST,
    REJECTS,
    SPLITS,
    Manifest,
    Shards,
    Split,
    dataset_id,
)
from agehpc.data.sources import Source, split_groups
from agehpc.data.writer import ShardWriter, sync
from agehpc.errors import DataError, UsageError

CHUNK = {"video": 1, "image": 32}  # sources a task: small ones share the cost of sending
HOUR_S = 3600.0
Progress = Callable[[int, int], None]


class KilledError(DataError):
    """A process that packs was killed from outside: that says nothing of its source."""


@dataclass(frozen=True)
class Workers:
    """Processes that decode and encode."""

    count: int = 0
    """0 does it in this process, which a damaged source may then crash or hang."""
    deadline_s: float = HOUR_S
    """What one source may take."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a pack."""

    sources: Sequence[Source]
    groups: Sequence[str]
    """Group of each source."""
    labels: Sequence[str | None]
    """Class of each source."""
    settings: Settings
    validation_fraction: float
    samples_per_shard: int
    held_out: frozenset[str] = frozenset()
    """Classes of which training sees nothing."""

    def splits(self, groups: Iterable[str]) -> dict[str, Split]:
        """Return the split of each group: validation where a class of it is held out."""
        kept_back = {
            g for g, label in zip(self.groups, self.labels, strict=True) if label in self.held_out
        }
        splits = split_groups(set(groups) - kept_back, self.validation_fraction)
        for group in kept_back & set(groups):
            splits[group] = "validation"
        return splits


@dataclass
class Tally:
    """What happened to the sources in one pass over them."""

    rates: Counter[str] = field(default_factory=Counter)
    """Frames at each rate."""
    rejects: dict[int, Reject] = field(default_factory=dict)
    """By number of the source."""
    shards: Shards = field(default_factory=dict)


def channels_of(sources: Sequence[Source]) -> Literal[1, 3]:
    """Return 1 where every readable image has a single channel, otherwise 3."""
    known = [grey for grey in map(is_grey, sources) if grey is not None]
    return 1 if known and all(known) else 3


def pack(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool,
    workers: Workers,
    progress: Progress,
    resume: bool = False,
) -> Manifest:
    """Pack into the folder `out` and return its manifest.

    The bytes are the same for any number of workers. `out` appears complete or stays as it was:
    UsageError where it exists, DataError where no source is usable or the disk is full. A source
    that crashes its worker, or hangs, is rejected.
    With `resume`, which needs sources that are files, the shards that a packing of the same plan
    had finished, whatever ended it, are kept in a hidden folder beside `out` and used.
    """
    refuse_existing(out, overwrite)
    out = out.resolve()  # a link stays, and what it leads to is replaced
    unfinished = unfinished_of(out)
    try:
        with locked(unfinished, out):
            keep = False
            try:
                manifest = _pack_into(unfinished, plan, workers, progress, resume)
                _move(unfinished, out, overwrite)
                (out / journals.NAME).unlink()
            except BaseException:
                keep = resume and _say_what_is_kept(unfinished)
                raise
            finally:
                if not keep:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"packing into {out} failed: {error.strerror or error}; free space or choose another "
            "folder"
        ) from error
    return manifest


def _say_what_is_kept(unfinished: Path) -> bool:
    """Tell whether shards were finished, and say so."""
    finished = len(list(unfinished.glob("*.idx.json")))
    if finished:
        sys.stderr.write(
            f"{finished} finished shard(s) are kept in {unfinished}: "
            "the same command goes on from there\n"
        )
    return finished > 0


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise UsageError where packing would replace something it should not."""
    # Neither can be renamed or replaced, which would be found out when all is packed.
    if out.is_mount() or out.resolve() == Path.cwd():
        raise UsageError(f"{out} is a mount point or where you are: choose a folder inside it")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise UsageError(f"{out} exists and holds no shards: choose another folder for the output")
    if not overwrite:
        raise UsageError(f"{out} already holds shards: add --overwrite to replace them")


def _move(unfinished: Path, out: Path, overwrite: bool) -> None:
    refuse_existing(out, overwrite)
    old = unfinished.with_suffix(".old")
    if (out / MANIFEST).is_file():
        shutil.rmtree(old, ignore_errors=True)  # of a run that was stopped while it removed it
        out.rename(old)
    unfinished.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _pack_into(
    unfinished: Path, plan: Plan, workers: Workers, progress: Progress, resume: bool
) -> Manifest:
    groups = set(plan.groups)
    while True:
        splits = plan.splits(groups)
        key = key_of(plan, splits) if resume else ""
        with closing(Journal(unfinished, key)) as journal:
            tally = _pass(unfinished, plan, splits, workers, progress, journal)
        usable = {g for i, g in enumerate(plan.groups) if i not in tally.rejects}
        if not usable:
            raise _nothing_left(plan, tally.rejects)
        both = len({splits[group] for group in usable}) > 1
        if both or not plan.validation_fraction or len(usable) < 2 or usable == groups:
            return _write_manifest(unfinished, plan, splits, tally)
        # Every source of a split was rejected: split the groups that are left.
        groups = usable


def _pass(
    unfinished: Path,
    plan: Plan,
    splits: dict[str, Split],
    workers: Workers,
    progress: Progress,
    journal: Journal,
) -> Tally:
    classes = class_names(plan.labels)
    tally = Tally()
    writers: dict[Split, ShardWriter] = {
        split: ShardWriter(unfinished, split, plan.samples_per_shard, journal) for split in SPLITS
    }
    # Groups without a split gave nothing in the pass before.
    sides: list[Split] = [splits.get(group, "train") for group in plan.groups]
    done = journal.encoded(sides, plan.samples_per_shard)
    todo = [source for number, source in enumerate(plan.sources) if number not in done]
    try:
        with closing(_encoded(todo, plan.settings, workers)) as results:
            for number in range(len(plan.sources)):
                writer = writers[sides[number]]
                if number in done:
                    outcome = journal.outcomes[number]
                    writer.skip(len(outcome.samples))
                else:
                    outcome = _write_source(plan, number, next(results), writer, classes)
                    journal.add(number, outcome)
                if outcome.reject:
                    tally.rejects[number] = outcome.reject
                for rate, frames in outcome.samples:
                    tally.rates[rate] += frames
                progress(number + 1, len(plan.sources))
        tally.shards = {split: writer.close() for split, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.abandon()
    return tally


def _write_source(
    plan: Plan,
    number: int,
    result: list[Piece] | Reject,
    writer: ShardWriter,
    classes: Sequence[str],
) -> Outcome:
    if isinstance(result, Reject):
        return Outcome(reject=result)
    label = plan.labels[number]
    shared = {
        "group": plan.groups[number],
        "class": label,
        "label": -1 if label is None else classes.index(label),
    }
    for piece in result:
        writer.write(piece.media, piece.about | shared)
    return Outcome(samples=tuple((p.about.get("fps", ""), p.about["frames"]) for p in result))


def _encoded(
    sources: Sequence[Source], settings: Settings, workers: Workers
) -> Generator[list[Piece] | Reject, None, None]:
    """Yield the result of every source, in order."""
    # One by one in this process: a chunk would hold its results back.
    size = CHUNK[settings.kind] if workers.count else 1
    chunks = [sources[i : i + size] for i in range(0, len(sources), size)]
    encode = partial(encode_many, settings=settings)
    with closing(mapped(encode, chunks, workers.count, workers.deadline_s)) as results:
        for result in results:
            if isinstance(result, Failed):
                yield from _each_alone(result, settings, workers.deadline_s)
            else:
                yield from result


def _each_alone(
    failed: Failed[Sequence[Source]], settings: Settings, deadline_s: float
) -> Iterator[list[Piece] | Reject]:
    """Yield the results of sources of which one failed; KilledError where it is not to blame."""
    if len(failed.task) == 1 and failed.is_to_blame:
        yield _reject(failed, deadline_s)
        return
    encode = partial(encode_many, settings=settings)
    alone: list[Sequence[Source]] = [[source] for source in failed.task]
    with closing(mapped(encode, alone, 1, deadline_s)) as results:
        for result in results:
            if not isinstance(result, Failed):
                yield from result
            elif result.is_to_blame:
                yield _reject(result, deadline_s)
            else:
                raise KilledError(
                    f"the process that packs {result.task[0].name} was killed (out of memory?): "
                    "give fewer --workers, or leave that source out"
                )


def _reject(failed: Failed[Sequence[Source]], deadline_s: float) -> Reject:
    if failed.late:
        return Reject("timeout", f"not done in {deadline_s / 60:g} minutes; see --source-minutes")
    return Reject("crash", f"decoding it {failed}")


def _write_manifest(
    unfinished: Path, plan: Plan, splits: dict[str, Split], tally: Tally
) -> Manifest:
    settings = plan.settings
    used = {g for i, g in enumerate(plan.groups) if i not in tally.rejects}
    classes = class_names(plan.labels)
    video = settings.kind == "video"
    pairs = None
    if settings.pairs:
        pairs = f"lowres {settings.pairs_factor}" if settings.pairs == "lowres" else settings.pairs
    manifest = Manifest(
        format=FORMAT,
        dataset_id=dataset_id(
            settings.kind,
            settings.size,
            settings.channels,
            classes,
            tally.shards,
            (pairs, settings.input_channels),
        ),
        kind=settings.kind,
        size=settings.size,
        channels=settings.channels,
        pairs=pairs,
        input_channels=settings.input_channels,
        fps=float(Fraction(tally.rates.most_common(1)[0][0])) if video else None,
        classes=classes,
        splits=tally.shards,
        sources=len(plan.sources) - len(tally.rejects),
        groups={split: sum(splits[group] == split for group in used) for split in SPLITS},
        rejects=Counter(reject.reason for reject in tally.rejects.values()),
        encoder=_encoder(settings),
    )
    lines = (
        json.dumps({"source": plan.sources[i].name, "reason": r.reason, "detail": r.detail})
        for i, r in sorted(tally.rejects.items())
    )
    _write(unfinished / REJECTS, "".join(f"{line}\n" for line in lines))
    _write(unfinished / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _encoder(settings: Settings) -> dict[str, str | int | float | None]:
    if settings.kind == "image":
        direction = settings.pairs_direction if settings.pairs == "side-by-side" else None
        form = {"format": settings.image_format, "fit": settings.fit}
        return {**form, **({"pairs_direction": direction} if direction else {})}
    return {
        **({"sound": "flac"} if settings.sound else {}),
        "codec": "libx264",
        "fit": settings.fit,
        "gop": settings.gop,
        "crf": settings.crf,
        "clip_len": settings.clip_len,
        "fps": None if settings.fps is None else str(settings.fps),
    }


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        sync(file)


def _nothing_left(plan: Plan, rejects: dict[int, Reject]) -> DataError:
    first = min(rejects)
    return DataError(
        f"none of the {len(rejects)} sources can be packed; for instance "
        f"{plan.sources[first].name}: {rejects[first].reason} ({rejects[first].detail})"
    )
