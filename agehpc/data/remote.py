"""A folder of shards behind a URL, read through the node's cache.

Every process fetches the manifest once; shards and indices lie in the cache under the checksum that
the manifest gives a shard, so that names say nothing and content is all.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, lru_cache, partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import ValidationError

from agehpc.config.schema import DataConfig
from agehpc.data.cache import GIB, Cache, CacheFull, Pinned, default_directory
from agehpc.data.fetch import Absent, Counts, Figures, Patience, Source
from agehpc.data.index import Index, Member, index_name, read_member, scan
from agehpc.data.lean import LeanSamples
from agehpc.data.shards import (
    MANIFEST,
    Manifest,
    ShardInfo,
    Split,
    Where,
    first_fault,
    own_id,
    url_of,
)
from agehpc.data.transport import open_transport
from agehpc.errors import MASK, DataError, redact

ASKED_AT_ONCE = 16


def remote_folder(where: Where) -> "RemoteFolder":
    """Return the folder that `data.shards` or a URL names: one a process."""
    data = where
    if not isinstance(data, DataConfig):
        data = DataConfig(kind="image", frames=1, shards=str(where))
    (url,) = data.folders
    return _folder(url, data.cache_dir, data.cache_gib, data.allow_pipe, data.fetch_minutes)


# Without a limit: a second one for a URL would have a manifest and figures of its own.
@cache
def _folder(
    url: str, cache_dir: str | None, cache_gib: float, allow_pipe: bool, minutes: float
) -> "RemoteFolder":
    if MASK in url:
        raise DataError(
            f"{url} was recorded without its credentials; give the whole URL again (--shards, or "
            "--data.shards where you train), or keep credentials out of it: in ~/.netrc, or where "
            "the storage's library looks"
        )
    figures = Figures()
    source = Source(
        open_transport(url, allow_pipe), redact(url.partition("?")[0]), minutes, figures
    )
    directory = Path(cache_dir) if cache_dir else default_directory()
    return RemoteFolder(source, Cache(directory, int(cache_gib * GIB), figures))


class Tally:
    """What this process reads from the URLs among `data.shards`, from one look to the next.

    The first look sees all since the process began: checks have read before anyone looks.
    """

    def __init__(self, data: DataConfig) -> None:
        urls = [folder for folder in data.folders if url_of(folder)]
        self._figures = [remote_folder(data.at(url)).figures for url in urls]
        self._seen = [Counts() for _ in self._figures]

    def __bool__(self) -> bool:
        """Tell whether there is a URL."""
        return bool(self._figures)

    def take(self) -> Counts:
        """Return what was read since the last look."""
        before, self._seen = self._seen, [figures.counts for figures in self._figures]
        more = Counts()
        for now, then in zip(self._seen, before, strict=True):
            more = more.plus(now.minus(then))
        return more


class RemoteFolder:
    """The shards behind a URL. DataError for all that cannot be had."""

    def __init__(self, source: Source, cache: Cache) -> None:
        self.source = source
        self.cache = cache
        self.figures = source.figures
        self._shards: dict[str, ShardInfo] = {}
        self._manifest: Manifest | None = None

    def manifest(self) -> Manifest:
        """Return the manifest, fetched once: what a process reads stays of one piece."""
        if self._manifest is None:
            self._manifest = self._fetch_manifest()
        return self._manifest

    def _fetch_manifest(self) -> Manifest:
        manifest = self.source.small(MANIFEST, _parse_manifest, self.source.patience())
        where = self.source.where(MANIFEST)
        shards = [shard for split in manifest.splits.values() for shard in split]
        self._shards = {shard.name: shard for shard in shards}
        if len(self._shards) < len(shards):
            raise DataError(f"{where} is damaged: it names a shard twice; pack the shards again")
        for name in self._shards:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise DataError(f"{where} is damaged: its shard {name} lies outside its folder")
        if own_id(manifest) != manifest.dataset_id:
            raise DataError(
                f"{where} is damaged: its shards come to the dataset id {own_id(manifest)}, it "
                f"says {manifest.dataset_id}; copy it again or pack the shards again"
            )
        return manifest

    def index(self, name: str) -> Index:
        """Return the index of a shard; made by scanning the shard where the source has none."""
        if name not in self._shards:
            self.manifest()
        return self.index_of(self._shards[name])

    def index_of(self, shard: ShardInfo) -> Index:
        """Return the index of a shard that a manifest names."""
        patience = self.source.patience()
        check = partial(_check_index, shard)

        def fetch() -> bytes:
            try:
                return self.source.small(index_name(shard.name), check, patience)
            except Absent:
                if shard.index_sha256 is not None:  # the tar alone does not tell the classes
                    raise
                pinned = self.pin(shard)
                index = scan(pinned.path).model_copy(update={"shard": shard.name})
                pinned.close()
                return check(index.model_dump_json(exclude_none=True).encode())

        # Tars made by others may be indexed in several ways.
        name = f"{shard.index_sha256 or shard.sha256}.idx.json"
        data = self.cache.small(name, fetch, patience)
        return Index.model_validate_json(data)

    def pin(self, shard: ShardInfo, patience: Patience | None = None) -> Pinned:
        """Return a shard's file, fetched and verified where the cache has it not."""
        patience = patience or self.source.patience()
        return self.cache.pin(
            f"{shard.sha256}.tar",
            shard.bytes,
            lambda file: self.download(shard, file, patience),
            patience,
        )

    def has(self, shard: ShardInfo) -> bool:
        """Tell whether a shard's file lies in the cache."""
        return self.cache.has(f"{shard.sha256}.tar", shard.bytes)

    def download(self, shard: ShardInfo, file: BinaryIO, patience: Patience) -> None:
        """Complete a file that holds a shard, or its beginning, or nothing."""
        self.source.download(shard.name, file, shard.bytes, shard.sha256, patience)

    def copy(self, shard: ShardInfo, directory: Path) -> None:
        """Fetch a shard and, where there is one, its index into a folder, past the cache."""
        path = directory / shard.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x+b") as file:
            self.download(shard, file, self.source.patience())
        with suppress(Absent):
            name = index_name(shard.name)
            data = self.source.small(name, partial(_check_index, shard), self.source.patience())
            (directory / name).write_bytes(data)

    def where(self, shard: str) -> str:
        """Return a shard's name for messages."""
        return self.source.where(shard)

    def check_present(self, manifest: Manifest, split: Split) -> None:
        """Raise DataError where a shard is missing at the source, or of another length."""
        wanted = [shard for shard in manifest.splits[split] if not self.has(shard)]
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            for shard, length in zip(wanted, pool.map(self._length, wanted), strict=True):
                if length not in (None, shard.bytes):
                    raise DataError(
                        f"shard {self.where(shard.name)} is {length} bytes long but should have "
                        f"{shard.bytes} bytes; copy it again or pack again with `agehpc data pack`"
                    )

    def _length(self, shard: ShardInfo) -> int | None:
        return self.source.length(shard.name, self.source.patience())


class RemoteShards:
    """The shards of a remote folder as one reader opens them; it holds one file at a time."""

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder
        # One: what a reader holds cannot be evicted, and opening one again costs microseconds.
        self._pins = lru_cache(maxsize=1)(partial(_counted, folder))

    def where(self, shard: str) -> str:
        """Return a shard's name for messages."""
        return self._folder.where(shard)

    def open(self, shard: ShardInfo) -> "RemoteShard":
        """Return a shard; its index is read now, its file when it is needed."""
        samples = LeanSamples(self._folder.index_of(shard).samples)
        return RemoteShard(samples, partial(self.pinned, shard))

    def pinned(self, shard: ShardInfo) -> Pinned:
        """Return a shard's file, which is not evicted while the result lives."""
        try:
            return self._pins(shard)  # pyright: ignore[reportArgumentType]  (frozen: hashable)
        except CacheFull:
            # What this reader holds may be all that is in the way.
            self._pins.cache_clear()
            return self._pins(shard)  # pyright: ignore[reportArgumentType]


class RemoteShard:
    """A shard of a remote folder: its samples, and their members, fetched when they are read."""

    def __init__(self, samples: LeanSamples, pinned: Callable[[], Pinned]) -> None:
        self.samples = samples
        self._pinned = pinned

    def read(self, member: Member) -> bytes | None:
        """Read a member; None unless length and checksum are right."""
        pinned = self._pinned()  # held while it is read
        return read_member(pinned.descriptor, member)


def _counted(folder: RemoteFolder, shard: ShardInfo) -> Pinned:
    pinned = folder.pin(shard)
    folder.figures.add(**{"misses" if pinned.fetched else "hits": 1})
    return pinned


def _parse_manifest(data: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"no manifest of shards ({first_fault(error)})") from None


def _check_index(shard: ShardInfo, data: bytes) -> bytes:
    if shard.index_sha256 not in (None, sha256(data).hexdigest()):
        raise ValueError("another index than the manifest's (sha256)")
    try:
        index = Index.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"no index of a shard ({first_fault(error)})") from None
    found = (index.bytes, len(index.samples), sum(sample.frames for sample in index.samples))
    if found != (shard.bytes, shard.samples, shard.frames):
        raise ValueError("the index of another shard than the manifest's")
    return data
