"""What is said of a sample that cannot be used, and how it was found."""

from typing import Literal

from agehpc.errors import DataError

Damage = Literal["crc", "open", "short", "decode", "timeout", "crash"]
"""How damage shows: bytes that are not those that were packed; no media as packed (its container,
its size); another number of frames; a frame that does not decode; decoding that does not end, or
that ends the process."""


class DamagedError(DataError):
    """A sample that cannot be used."""

    kind: Damage = "decode"
    reason: str = ""
    """The message without the sample's name and advice."""


class MediaError(Exception):
    """What a decoder found wrong with a clip or a picture."""

    def __init__(self, kind: Damage, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind: Damage = kind
        self.reason = reason


def damaged(where: str, reason: str, kind: Damage) -> DamagedError:
    """Return the error for the sample `where`."""
    error = DamagedError(
        f"{where} is damaged: {reason}; `agehpc data verify` lists all damage in a folder of shards"
    )
    # Not an argument: errors travel between processes, which keep the message and attributes.
    error.kind = kind
    error.reason = reason
    return error


def wrong_count(found: int, frames: int) -> MediaError:
    """Return the error for a clip of `found` frames that was packed with `frames`."""
    return MediaError("short", f"it has {found} frames instead of {frames}")


def undecodable(kind: Damage, error: Exception) -> MediaError:
    """Return the error for what a library complains of, with its last line."""
    lines = str(error).strip().splitlines()
    return MediaError(kind, f"it cannot be decoded ({lines[-1] if lines else 'no reason'})")


def other_size(width: int, height: int, size: int) -> MediaError:
    """Return the error for media of another size than was packed."""
    return MediaError("open", f"it has {width}x{height} pixels instead of {size}x{size}")
