"""Recorded raw frames: one reader and one writer of the line format `receive time in seconds: raw frame`.

The sandbox exchange plays such files, the parity check replays them without sockets, `observator record` writes them.
Never interprets a frame: what a frame means is known to `producers.upbit.parse` alone.

A line is `1617646620.849474: b'{"ty":"orderbook",...}'` (a binary frame as Python writes bytes) or
`1617646620.849474: {"ty":"trade",...}` (a text frame). Every other line (the recorder's configuration, connects,
subscriptions, blanks) is no frame.
"""

import ast
import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self, cast

from infra.errors import BadSettings, DiskFull

_LINE = re.compile(rb"^(\d{1,12})(?:\.(\d{1,9}))?: (.+)$", re.DOTALL)
_GZIP_BITS = 31
"""zlib's name for: largest window, gzip header."""


class Frame(NamedTuple):
    """One frame as it came in; `received_ns` is the recorder's wall clock."""

    received_ns: int
    raw: bytes


class Recording:
    """The frames of one file, in order; iterating it again reads it again.

    `skipped` counts the lines of the last complete pass that were no frames. Raises `BadSettings` when the file is
    missing, cut off or no recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        self.skipped = 0

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order of the file."""
        self.frames = self.skipped = 0
        for line in self._lines():
            frame = frame_of(line)
            if frame is None:
                self.skipped += 1
            else:
                self.frames += 1
                yield frame

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as plain:
                is_gzip = plain.read(2) == b"\x1f\x8b"
                plain.seek(0)
                yield from cast("BinaryIO", gzip.GzipFile(fileobj=plain)) if is_gzip else plain
        except (OSError, EOFError, zlib.error) as error:
            raise BadSettings(f"the recording {self.path} cannot be read: {error}") from error


def frame_of(line: bytes) -> Frame | None:
    """Read one line; None where it is no frame."""
    match = _LINE.match(line.rstrip(b"\r\n"))
    if match is None:
        return None
    raw = _bytes_of(match[3])
    if raw is None:
        return None
    return Frame(int(match[1]) * 1_000_000_000 + int((match[2] or b"0").ljust(9, b"0")), raw)


def _bytes_of(text: bytes) -> bytes | None:
    """The frame behind its spelling in the line; None where the spelling is neither of the two."""
    if text[:1] in b"{[":
        return text
    if text[:2] not in {b"b'", b'b"'} or len(text) < 3 or text[-1:] != text[1:2]:
        return None
    if b"\\" not in text and text.count(text[1:2]) == 2:
        return text[2:-1]
    try:
        value = ast.literal_eval(text.decode())
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, bytes) else None


class RecordingWriter:
    """Writes frames to a gzip file that appears under its name only when it is whole.

    Everything goes to a temporary name beside it; leaving the block without an error syncs and renames it. Raises
    `DiskFull` when there is no room; then no file is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        self._temporary = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise _write_error(self.path, error) from error
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, _GZIP_BITS)
        return self

    def write(self, frame: Frame) -> None:
        """Append one frame."""
        seconds, rest = divmod(frame.received_ns, 1_000_000_000)
        try:
            self._file.write(self._deflate.compress(f"{seconds}.{rest // 1000:06d}: {frame.raw!r}\n".encode()))
        except OSError as error:
            raise _write_error(self.path, error) from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as failure:
            raise _write_error(self.path, failure) from failure
        finally:
            self._discard()

    def _commit(self) -> None:
        self._file.write(self._deflate.flush())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _discard(self) -> None:
        """Let go of the temporary file; what could not be written any more is of no use."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def _write_error(path: Path, error: OSError) -> DiskFull:
    return DiskFull(f"the recording {path} cannot be written: {error.strerror or error}; nothing was kept")
