"""Checks of the shards against the configuration, before anything is trained."""

import itertools

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.clips import span
from agehpc.data.index import read_index
from agehpc.data.mixture import Part, parts_of, read_shards
from agehpc.data.shards import SPLITS, Manifest, Split, path_of, url_of
from agehpc.data.stream import Stream, labels_of
from agehpc.errors import ConfigError, DataError

PACK = "pack again with `agehpc data pack`"


def check(data: DataConfig, manifest: Manifest) -> DataConfig:
    """Return `data` with what the manifest knows filled in: dataset_id, channels, classes, domains.

    ConfigError where the configuration does not fit the shards (kind, size, identity, clips that
    are too short), DataError where shards are missing, empty or of the wrong length.
    """
    _fits(data, manifest)
    if not manifest.samples("train"):
        raise DataError(f"the training split of {data.where} is empty; {PACK}")
    for part, split in itertools.product(parts_of(data, manifest), manifest.splits):
        _present(part.data, part.manifest, split)
        _long_enough(data, part, split)
    channels = data.channels or manifest.channels
    if channels not in (1, 3):
        raise ConfigError(f"--data.channels must be 1 (grey) or 3 (RGB): got {channels}")
    filled = data.model_dump() | {
        "dataset_id": manifest.dataset_id,
        "channels": channels,
        "classes": manifest.classes,
    }
    if data.pairing == "paired":
        filled["input_channels"] = _input_channels(data, manifest, channels)
    if data.pairing == "unpaired":
        filled["domains"] = _domains(data, manifest)
    if data.balance or data.weights is not None:
        Stream(data, manifest, "train", 0)  # raises where there is nothing to draw
    return DataConfig.model_validate(filled)


def check_labelled(data: DataConfig) -> None:
    """Raise DataError where a sample of the shards has no class."""
    parts = parts_of(data, read_shards(data))
    labels = np.concatenate([own for split in SPLITS for own in labels_of(parts, split)])
    without = int((labels < 0).sum())
    if without:
        raise DataError(
            f"{without} of {len(labels)} samples in {data.where} have no class, which a model "
            f"that generates by class needs; {PACK}, every source in the folder of its class"
        )


def _input_channels(data: DataConfig, manifest: Manifest, channels: int) -> int:
    if manifest.pairs is None:
        raise ConfigError(
            f"{data.where} holds no pairs: pack with --pairs edges, grey, lowres, side-by-side or "
            "folders, or set --data.pairing none"
        )
    inputs = data.input_channels or manifest.input_channels
    if inputs not in (1, 3):
        raise ConfigError(f"--data.input-channels must be 1 (grey) or 3 (RGB): got {inputs}")
    # What makes a picture lighter must make its input lighter: an edge map it would turn grey.
    same_light = manifest.pairs.partition(" ")[0] in ("grey", "lowres")
    if data.colour and not same_light and (manifest.pairs == "edges" or inputs != channels):
        raise ConfigError(
            f"--data.colour {data.colour} cannot be applied to pairs of {manifest.pairs} with "
            f"{inputs} and {channels} channels: input and target would no longer belong together; "
            "set --data.colour 0"
        )
    return inputs


def _domains(data: DataConfig, manifest: Manifest) -> tuple[str, str]:
    known = ", ".join(manifest.classes) or "none"
    if data.domains is None and len(manifest.classes) != 2:
        raise ConfigError(
            f"unpaired data needs two domains but {data.where} has {len(manifest.classes)} "
            f"classes ({known}): choose two of them with --data.domains, or pack two folders with "
            "`agehpc data pack A B OUT`"
        )
    first, second = data.domains or manifest.classes
    for name in (first, second):
        if name not in manifest.classes:
            raise ConfigError(
                f"--data.domains {first} {second}: {data.where} has no class {name}; it has {known}"
            )
        if not len(Stream(data, manifest, "train", None, name)):
            raise DataError(f"the training split of {data.where} has no sample of class {name}")
    return first, second


def _fits(data: DataConfig, manifest: Manifest) -> None:
    if data.kind != manifest.kind:
        raise ConfigError(
            f"{data.where} holds {manifest.kind} shards but --data.kind is {data.kind}: "
            f"choose a recipe for {manifest.kind}s, or other shards"
        )
    if data.size != manifest.size:
        raise ConfigError(
            f"{data.where} was packed at {manifest.size} pixels but --data.size is {data.size}: "
            f"set --data.size {manifest.size}, or {PACK} --size {data.size}"
        )
    if data.dataset_id not in (None, manifest.dataset_id):
        raise ConfigError(
            f"{data.where} is not the data of this run: its dataset id is "
            f"{manifest.dataset_id}, the run's is {data.dataset_id}; set --data.shards to the "
            "folder that the run started with, or start another run"
        )


def _present(data: DataConfig, manifest: Manifest, split: Split) -> None:
    if url_of(data):
        from agehpc.data.remote import remote_folder

        remote_folder(data).check_present(manifest, split)
        return
    for shard in manifest.splits[split]:
        path = path_of(data) / shard.name
        try:
            length = path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"shard {path} is missing; copy it again or {PACK}") from None
        if length != shard.bytes:
            what = "is empty" if length == 0 else f"is {length} bytes long"
            raise DataError(
                f"shard {path} {what} but should have {shard.bytes} bytes; copy it again or {PACK}"
            )


def _long_enough(data: DataConfig, part: Part, split: Split) -> None:
    if data.short_clips == "loop":
        return
    stride = max(data.strides)
    need = span(data.frames, stride)
    suspects = [shard.name for shard in part.manifest.splits[split] if shard.least_frames < need]
    if not suspects:
        return
    lengths = [s.frames for name in suspects for s in read_index(part.data, name).samples]
    short = [length for length in lengths if length < need]
    raise ConfigError(
        f"{len(short)} of {part.manifest.samples(split)} {split} clips in {part.directory} are "
        f"shorter than the {need} frames that --data.frames {data.frames} at stride {stride} needs "
        f"(the shortest has {min(short)}): set --data.short-clips loop, or lower --data.frames or "
        "--data.strides"
    )
