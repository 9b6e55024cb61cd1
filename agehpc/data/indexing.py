"""From tars that others made to a folder of shards: indices and a manifest, no copy."""

import fnmatch
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from agehpc.data.foreign import Scanned, Wanted, kind_of, scan_tar
from agehpc.data.index import Index, Sample, index_name
from agehpc.data.labels import class_names, label_of
from agehpc.data.pieces import Reject
from agehpc.data.processes import Failed, mapped
from agehpc.data.shards import (
    FORMAT,
    MANIFEST,
    REJECTS,
    SPLITS,
    Kind,
    Manifest,
    ShardInfo,
    Shards,
    dataset_id,
)
from agehpc.data.sources import split_groups
from agehpc.data.usable import DAMAGE
from agehpc.data.walk import files_under
from agehpc.errors import DataError, UsageError
from agehpc.files import write_text

VALIDATION = re.compile(r"(?:^|[/_.-])val(?:id(?:ation)?)?(?:$|[/_.\d-])", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """What is to be made of the tars."""

    kind: Kind | None = None
    media: str | None = None
    size: int | None = None
    labelled: bool = True
    label_key: str | None = None
    validation: str | None = None
    validation_fraction: float = 0.1
    skip_unfit: bool = False


def index_tars(
    arguments: Sequence[str],
    out: str | Path,
    choice: Choice,
    *,
    workers: int = 0,
    overwrite: bool = False,
    write: bool = True,
) -> Manifest:
    """Index tars and return the manifest, which `out` then holds beside links to the tars.

    Everything is read and decoded before anything is written. DataError where a tar is damaged or
    a sample would have to be packed, UsageError where it cannot be told what is meant.
    """
    out = Path(out)
    if (out / MANIFEST).exists() and not overwrite:
        raise UsageError(f"{out} already holds shards: add --overwrite to replace their index")
    tars = _named(arguments, out)
    for name, path in tars.items():
        _check_place(out / name, path)
    wanted = Wanted(choice.kind or _kind(tars.values()), choice.media, choice.label_key)
    scanned = []
    for tar in mapped(partial(_scan, wanted=wanted), list(tars.items()), workers):
        if isinstance(tar, Failed):
            fix = "leave that tar out" if tar.is_to_blame else "give fewer --workers"
            raise DataError(f"{tar.task[1]}: decoding its samples {tar}; {fix}")
        scanned.append(tar)
    _check_twins(scanned)
    size = choice.size or _size(scanned)
    scanned = [_of_size(tar, size) for tar in scanned]
    _check_fit(scanned, choice, size, arguments)
    indices, manifest = _manifest([tar for tar in scanned if tar.samples], wanted, choice, size)
    rejects = [(tar.shard.name, *reject) for tar in scanned for reject in tar.rejects]
    manifest = manifest.model_copy(
        update={"rejects": dict(Counter(reject.reason for _, _, reject in rejects))}
    )
    if write:
        _write(out, tars, indices, rejects, manifest)
    return manifest


def _scan(tar: tuple[str, Path], wanted: Wanted) -> Scanned:
    name, path = tar
    return scan_tar(path, name, wanted)


def _named(arguments: Sequence[str], out: Path) -> dict[str, Path]:
    """Return the tars by the name they get: their path inside `out`, or the folder above all."""
    paths: list[Path] = []
    for argument in map(Path, arguments):
        if argument.is_dir():
            paths += (path for path in files_under(argument) if path.suffix == ".tar")
        elif argument.is_file():
            paths.append(argument)
        else:
            raise UsageError(f"no such tar or folder: {argument}")
    out = out.absolute()
    # Links that an earlier run made in `out` are not tars of their own.
    found = sorted(
        {
            path.absolute()
            for path in paths
            if path.is_file() and not (path.is_symlink() and path.absolute().is_relative_to(out))
        }
    )
    if not found:
        raise UsageError(f"no .tar files in {' '.join(arguments)}")
    base = out
    if not all(path.is_relative_to(base) for path in found):
        base = Path(os.path.commonpath([path.parent for path in found]))
    return {path.relative_to(base).as_posix(): path for path in found}


def _kind(paths: Iterable[Path]) -> Kind:
    for path in paths:
        if kind := kind_of(path):
            return kind
    raise DataError("the tars hold neither images nor videos: see --media and --kind")


def _check_twins(scanned: Sequence[Scanned]) -> None:
    """Refuse the same content under two names: one shard was fetched in place of another."""
    seen: dict[str, str] = {}
    for tar in scanned:
        other = seen.setdefault(tar.shard.sha256, tar.shard.name)
        if other != tar.shard.name:
            raise DataError(
                f"{other} and {tar.shard.name} are the same to the last byte: was one fetched or "
                "copied in place of the other? Fetch it again, or name one of them only"
            )


def _size(scanned: Sequence[Scanned]) -> int:
    sizes = Counter(sample.look.size for tar in scanned for sample in tar.samples)
    return sizes.most_common(1)[0][0] if sizes else 0


def _of_size(tar: Scanned, size: int) -> Scanned:
    """Reject the samples of another size."""
    kept = tuple(sample for sample in tar.samples if sample.look.size == size)
    others = tuple(
        (s.key, Reject("size", f"it is {s.look.size}x{s.look.size}, not {size}x{size}"))
        for s in tar.samples
        if s.look.size != size
    )
    return Scanned(tar.shard, kept, tar.rejects + others)


def _check_fit(
    scanned: Sequence[Scanned], choice: Choice, size: int, arguments: Sequence[str]
) -> None:
    """Raise DataError where samples would have to be packed, or none are left."""
    rejects = [(tar.shard.name, *reject) for tar in scanned for reject in tar.rejects]
    unfit = [reject for reject in rejects if reject[2].reason not in DAMAGE]
    total = len(rejects) + sum(len(tar.samples) for tar in scanned)
    if unfit and not choice.skip_unfit:
        counts = Counter(reject.reason for _, _, reject in unfit)
        reasons = ", ".join(f"{count} by {reason}" for reason, count in counts.most_common())
        shard, key, first = unfit[0]
        raise DataError(
            f"{len(unfit)} of {total} samples cannot be trained on as they are: {reasons} (the "
            f"first: {shard}: {key}: {first.detail}). Pack them: `agehpc data pack "
            f"{' '.join(arguments)} OUT --size {size or 64}`; or leave them out with --skip-unfit"
        )
    if total == len(rejects):
        shard, key, first = rejects[0] if rejects else ("", "", Reject("", "the tars are empty"))
        raise DataError(
            f"none of the {total} samples can be used; for instance {shard}: {key}: "
            f"{first.reason} ({first.detail})"
        )
    if choice.label_key and not any(s.label for tar in scanned for s in tar.samples):
        raise UsageError(
            f"--label-key {choice.label_key}: no json member has that field with a name or number"
        )


def _manifest(
    tars: Sequence[Scanned], wanted: Wanted, choice: Choice, size: int
) -> tuple[dict[str, str], Manifest]:
    """Return the text of every tar's index, and the manifest (its rejects are not counted yet)."""
    samples = [sample for tar in tars for sample in tar.samples]
    labels = iter(label_of(samples) if choice.labelled else [None] * len(samples))
    by_tar = [[next(labels) for _ in tar.samples] for tar in tars]
    classes = class_names(label for of_tar in by_tar for label in of_tar)
    indices, infos = {}, {}
    for tar, of_tar in zip(tars, by_tar, strict=True):
        index = _index(tar, [-1 if label is None else classes.index(label) for label in of_tar])
        text = index.model_dump_json(exclude_none=True)
        indices[tar.shard.name] = text
        infos[tar.shard.name] = _info(tar, text)
    held_out = _held_out(list(infos), choice)
    shards: Shards = {
        split: tuple(
            info for name, info in infos.items() if (name in held_out) == (split != "train")
        )
        for split in SPLITS
    }
    channels: Literal[1, 3] = 1 if all(sample.look.channels == 1 for sample in samples) else 3
    rates: Counter[float] = Counter()
    for sample in samples:
        if sample.look.rate is not None:
            rates[float(sample.look.rate)] += sample.look.frames
    gop = max((sample.look.gop or 0 for sample in samples), default=0)
    return indices, Manifest(
        format=FORMAT,
        dataset_id=dataset_id(wanted.kind, size, channels, classes, shards),
        origin="indexed",
        kind=wanted.kind,
        size=size,
        channels=channels,
        fps=rates.most_common(1)[0][0] if rates else None,
        classes=classes,
        splits=shards,
        sources=len(samples),
        groups={split: len(shards[split]) for split in SPLITS},
        rejects={},
        encoder={"gop": gop} if gop else {},
    )


def _index(tar: Scanned, labels: Sequence[int]) -> Index:
    samples = tuple(
        Sample(
            key=sample.key,
            frames=sample.look.frames,
            label=label,
            media=sample.media,
            json_member=sample.json_member,
        )
        for sample, label in zip(tar.samples, labels, strict=True)
    )
    return Index(shard=tar.shard.name, bytes=tar.shard.bytes, samples=samples)


def _info(tar: Scanned, index: str) -> ShardInfo:
    frames = [sample.look.frames for sample in tar.samples]
    return tar.shard.model_copy(
        update={
            "samples": len(frames),
            "frames": sum(frames),
            "least_frames": min(frames),
            "index_sha256": hashlib.sha256(index.encode()).hexdigest(),
        }
    )


def _held_out(names: Sequence[str], choice: Choice) -> set[str]:
    """Return the tars that are for validation."""
    if choice.validation is not None:
        found = {name for name in names if fnmatch.fnmatch(name, choice.validation)}
        if not found or len(found) == len(names):
            raise UsageError(
                f"--validation '{choice.validation}' matches {len(found)} of {len(names)} tars: "
                f"some must be left for training; their names are {', '.join(names[:4])}..."
            )
        return found
    named = {name for name in names if VALIDATION.search(name.removesuffix(".tar"))}
    if 0 < len(named) < len(names):
        return named
    splits = split_groups(names, choice.validation_fraction)
    return {name for name, split in splits.items() if split == "validation"}


def _check_place(link: Path, path: Path) -> None:
    """Raise UsageError where something else has the place of a tar in the folder to make."""
    if (link.exists() or link.is_symlink()) and not (
        link.is_symlink() or link.resolve() == path.resolve()
    ):
        raise UsageError(f"{link} exists and is another file: choose another folder for --out")


def _write(
    out: Path,
    tars: dict[str, Path],
    indices: dict[str, str],
    rejects: Sequence[tuple[str, str, Reject]],
    manifest: Manifest,
) -> None:
    (out / MANIFEST).unlink(missing_ok=True)
    for name, index in indices.items():
        link, path = out / name, tars[name]
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.absolute() != path.absolute():
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
        write_text(out / index_name(name), index)
    lines = (
        json.dumps({"source": f"{shard}/{key}", "reason": r.reason, "detail": r.detail})
        for shard, key, r in rejects
    )
    write_text(out / REJECTS, "".join(f"{line}\n" for line in lines))
    write_text(out / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
