"""Where the files of a URL come from: HTTP, whatever else fsspec opens, or a command.

A transport tries once; what is worth another try and for how long, its user decides.
"""

import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from agehpc.errors import ConfigError, redact

BLOCK = 1 << 20
RANGE = 8 << 20  # asked for at once, where a file is not streamed
CONNECT_SECONDS = 30.0
SILENT_SECONDS = 60.0
NOT_NOW = frozenset({408, 425, 429, 500, 502, 503, 504})
NO_RANGE = 416
# What the libraries behind fsspec raise besides OSError; known only where they are installed.
FOREIGN_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


class Transient(Exception):
    """A failure that may pass: another try is worth it.

    `wait`: seconds that the server asked to wait. `stale`: what was fetched so far is of no use.
    """

    def __init__(self, reason: str, *, wait: float = 0.0, stale: bool = False) -> None:
        super().__init__(redact(reason))
        self.wait = wait
        self.stale = stale


class Refused(Exception):
    """A failure that will not pass by itself: no right to read, a wrong address."""

    def __init__(self, reason: str) -> None:
        super().__init__(redact(reason))


class Missing(Refused):
    """There is no such file."""


@dataclass
class Body:
    """The bytes of a file, from `start` on."""

    blocks: Iterator[bytes]
    start: int = 0
    """0 where the source cannot begin elsewhere, whatever was asked for."""
    length: int | None = None
    """Of the whole file; None where the source does not tell."""
    kind: str = ""
    """Media type, where told."""


class Transport(Protocol):
    """Reads files by name. Raises Transient, Refused or Missing."""

    def body(self, name: str, start: int = 0) -> Any:
        """Open a file for reading: a context manager that gives a Body."""
        ...

    def length(self, name: str) -> int | None:
        """Return a file's length in bytes, None where the source does not tell."""
        ...


def open_transport(url: str, allow_pipe: bool) -> Transport:
    """Return what reads the files under a URL; ConfigError where nothing can."""
    if url.startswith("pipe:"):
        return Pipe(url, allow_pipe)
    try:
        return Http(url) if url.startswith(("http://", "https://")) else Filesystem(url)
    except ImportError as error:
        # fsspec's own words name the package: "Install s3fs to access S3".
        raise ConfigError(
            f"--data.shards {url} cannot be read: {error}; install the package that it names, and "
            "agehpc[remote] for http"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"--data.shards {url} cannot be read: {error}; give a folder, http(s)://, or a "
            "protocol that fsspec knows, as s3://BUCKET/FOLDER"
        ) from None


class Http:
    """Files under an http(s) URL, through the session of fsspec's file system.

    Credentials may stand in the URL, in ~/.netrc, or as headers in fsspec's configuration.
    """

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.config import conf

        self._base, mark, query = url.partition("?")
        self._query = mark + query
        # Proxies and ~/.netrc; `encoded`: a signature must stay as it was signed.
        client = {"trust_env": True, **conf.get("http", {}).get("client_kwargs", {})}
        self._fs: Any = fsspec.filesystem("http", client_kwargs=client, encoded=True)

    @contextmanager
    def body(self, name: str, start: int = 0) -> Iterator[Body]:
        """Stream a file by one GET, with a Range where it does not start at 0."""
        with self._answer("GET", name, start) as answer:
            total = answer.content_length
            begins = 0
            if answer.status == 206:
                begins, total = _content_range(answer.headers.get("Content-Range", ""))
            yield Body(self._blocks(answer), begins, total, answer.content_type)

    def length(self, name: str) -> int | None:
        """Ask by HEAD; None also where the server answers no HEAD."""
        with self._answer("HEAD", name, 0, refused=(405, 501)) as answer:
            return answer.content_length if answer.status == 200 else None

    @contextmanager
    def _answer(
        self, method: str, name: str, start: int, refused: tuple[int, ...] = ()
    ) -> Iterator[Any]:
        from aiohttp import ClientTimeout
        from fsspec.asyn import sync

        url = f"{self._base.rstrip('/')}/{quote(name)}{self._query}"
        headers = {**self._fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)

        async def ask() -> Any:
            session = await self._fs.set_session()
            options = {**self._fs.kwargs, "headers": headers, "timeout": timeout}
            return await session.request(method, self._fs.encode_url(url), **options)

        async def close() -> None:
            answer.close()

        with _http_errors():
            answer: Any = sync(self._fs.loop, ask)
        try:
            if answer.status not in refused:
                _check_status(answer)
            yield answer
        finally:
            sync(self._fs.loop, close)

    def _blocks(self, answer: Any) -> Iterator[bytes]:
        from fsspec.asyn import sync

        while True:
            with _http_errors():
                block = sync(self._fs.loop, answer.content.readany)
            if not block:
                return
            yield block


def _check_status(answer: Any) -> None:
    status = answer.status
    reason = f"the server answers {status} {answer.reason or ''}".rstrip()
    if status == 404 or status == 410:
        raise Missing(reason)
    if status in NOT_NOW:
        wait = answer.headers.get("Retry-After", "")
        raise Transient(reason, wait=float(wait) if wait.isdigit() else 0.0)
    if status == NO_RANGE:
        raise Transient(reason, stale=True)
    if status not in (200, 206):
        raise Refused(reason)


def _content_range(text: str) -> tuple[int, int | None]:
    """Return the start and the whole length of `bytes START-END/LENGTH`."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        raise Transient(f"the server answers a part of the file without saying which: {text!r}")
    return int(start), int(total) if total.isdigit() else None


@contextmanager
def _http_errors() -> Iterator[None]:
    # Around the library's calls alone: an error of the user of a body must stay what it is.
    import aiohttp

    try:
        yield
    except ValueError:  # aiohttp's InvalidURL is one, yarl's own have no other name
        raise Refused("it is no valid URL") from None
    except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError
        raise Transient(_words(error)) from None


class Filesystem:
    """Files under a URL of any other protocol that fsspec knows, by ranges.

    Credentials come as its library takes them, from the environment or fsspec's configuration.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._fs, self._base = url_to_fs(url)
        self._errors = (OSError, *_foreign_errors())

    @contextmanager
    def body(self, name: str, start: int = 0) -> Iterator[Body]:
        """Read a file in pieces of RANGE bytes."""
        length = self.length(name) or 0
        yield Body(self._blocks(self._path(name), start, length), start, length)

    def length(self, name: str) -> int | None:
        """Ask the file system."""
        with self._translated():
            # What a listing said before may have changed.
            self._fs.invalidate_cache()
            return self._fs.size(self._path(name))

    def _blocks(self, path: str, start: int, length: int) -> Iterator[bytes]:
        for at in range(start, length, RANGE):
            with self._translated():
                block = self._fs.cat_file(path, start=at, end=min(at + RANGE, length))
            yield block

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise Missing("there is no such file") from None
        except PermissionError as error:
            raise Refused(_words(error)) from None
        except self._errors as error:
            raise Transient(_words(error)) from None


def _foreign_errors() -> Iterator[type[Exception]]:
    for module, name in FOREIGN_ERRORS:
        if module in sys.modules:  # not its first part: protobuf alone makes a `google`
            yield getattr(sys.modules[module], name)


class Pipe:
    """What a command writes: `pipe:COMMAND`, in which {} stands for a file's name."""

    def __init__(self, url: str, allowed: bool) -> None:
        if not allowed:
            raise ConfigError(
                "the shards are given as a command to run, which needs --allow-pipe (where you "
                "train: --data.allow-pipe true)"
            )
        self._command = url.removeprefix("pipe:")
        if "{}" not in self._command:
            raise ConfigError(
                "the command that gives the shards does not say where the name of a file goes: "
                "put {} there, as in `ssh HOST cat FOLDER/{}`"
            )

    @contextmanager
    def body(self, name: str, start: int = 0) -> Iterator[Body]:
        """Run the command; it always begins at the start."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", self._command.replace("{}", shlex.quote(name))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Many tools print the headers they send there.
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield Body(self._blocks(process))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def length(self, name: str) -> int | None:
        """A command does not tell."""
        return None

    def _blocks(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        while True:
            ready, _, _ = select.select([descriptor], [], [], SILENT_SECONDS)
            if not ready:
                raise Transient(f"the command was silent for {SILENT_SECONDS:g} s")
            block = os.read(descriptor, BLOCK)
            if not block:
                break
            yield block
        if code := process.wait():
            raise Transient(f"the command ended with the exit code {code}")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
