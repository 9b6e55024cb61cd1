"""Several folders of shards as one: their samples, classes and identity."""

from collections import Counter
from collections.abc import Sequence

from agehpc.config.schema import DataConfig
from agehpc.data.shards import FORMAT, SPLITS, Manifest, Record, read_manifest
from agehpc.errors import ConfigError

SHARED = ("kind", "size", "channels", "pairs", "input_channels")


class Part(Record):
    """One of the folders, and the number in the whole of each of its classes."""

    data: DataConfig
    manifest: Manifest
    classes: tuple[int, ...]

    @property
    def directory(self) -> str:
        """Where it lies, for messages."""
        return self.data.where


class Mixture(Manifest):
    """What several folders of shards hold together.

    Shards follow each other in the order of the parts, each under its part's dataset id: names
    alone are not unique. Classes of one name are one class.
    """

    parts: tuple[Part, ...]


def read_shards(data: DataConfig) -> Manifest:
    """Read the manifest of a folder of shards, or those of several as one Mixture.

    DataError where a folder has none or a damaged one, ConfigError where two do not go together.
    """
    manifests = [read_manifest(data.at(folder)) for folder in data.folders]
    if len(manifests) == 1:
        return manifests[0]
    _refuse_unlike(data.folders, manifests)
    classes = tuple(dict.fromkeys(name for manifest in manifests for name in manifest.classes))
    parts = tuple(
        Part(
            data=data.at(folder),
            manifest=manifest,
            classes=tuple(classes.index(name) for name in manifest.classes),
        )
        for folder, manifest in zip(data.folders, manifests, strict=True)
    )
    first = manifests[0]
    return Mixture(
        format=FORMAT,
        dataset_id="+".join(manifest.dataset_id for manifest in manifests),
        **{name: getattr(first, name) for name in SHARED},
        fps=first.fps,
        classes=classes,
        splits={
            split: tuple(
                shard.model_copy(update={"name": f"{m.dataset_id}/{shard.name}"})
                for m in manifests
                for shard in m.splits[split]
            )
            for split in SPLITS
        },
        sources=sum(manifest.sources for manifest in manifests),
        groups={split: sum(m.groups[split] for m in manifests) for split in SPLITS},
        rejects=dict(sum((Counter(manifest.rejects) for manifest in manifests), Counter())),
        encoder=first.encoder,
        parts=parts,
    )


def parts_of(data: DataConfig, manifest: Manifest) -> tuple[Part, ...]:
    """Return the folders of a manifest that :func:`read_shards` gave; one is its own only part."""
    if isinstance(manifest, Mixture):
        return manifest.parts
    own = tuple(range(len(manifest.classes)))
    return (Part(data=data, manifest=manifest, classes=own),)


def _refuse_unlike(folders: Sequence[str], manifests: Sequence[Manifest]) -> None:
    for name in SHARED:
        values = [getattr(manifest, name) for manifest in manifests]
        for folder, value in zip(folders, values, strict=True):
            if value != values[0]:
                raise ConfigError(
                    f"--data.shards: {folders[0]} and {folder} cannot be mixed: "
                    f"{name.replace('_', ' ')} {values[0]} and {value}; pack one again like "
                    "the other"
                )
    seen: dict[str, str] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        if other := seen.get(manifest.dataset_id):
            raise ConfigError(
                f"--data.shards: {other} and {folder} hold the same data (dataset id "
                f"{manifest.dataset_id}); name it once, and draw it more often by "
                "--data.weights"
            )
        seen[manifest.dataset_id] = folder
