"""The seal of a part file: checksums of all its bytes, held before Parquet's reader is given any of them.

Called by `streams.parts` only. Parquet has no checksum over its own footer, and its reader can end the process over one
turned bit there, so nothing unchecked may reach it. The seal stands between the last column and the footer: there any
Parquet reader passes over it, because it finds columns by their offsets from the file's beginning.
"""

import hashlib
import io
import struct
import zlib
from array import array
from typing import BinaryIO

from infra.errors import Stop

_BLOCK = 65_536
"""Bytes per checksum: a read of some columns checks the blocks that it touches and no others."""
_SEAL = struct.Struct("<Q16s8s")
"""Where the columns end (and the blocks' checksums begin), hash over checksums and footer, name of the seal."""
_NAME = b"OBSEAL01"
_LENGTH = struct.Struct("<I4s")
"""Parquet's last bytes: length of its footer, and its name."""
_PARQUET = b"PAR1"


class DamagedPart(Stop):
    """A part file is cut off, changed, misnamed or none of ours; the message names it. Nothing of it may be used."""


def sealed(data: bytes) -> bytes:
    """A Parquet file with its seal."""
    length, name = _LENGTH.unpack(data[-_LENGTH.size :])
    assert name == _PARQUET
    end = len(data) - _LENGTH.size - length
    sums = _sums(data[:end])
    return b"".join((data[:end], sums, _SEAL.pack(end, _hash(sums, end, data[end:]), _NAME), data[end:]))


class SealedFile(io.RawIOBase):
    """A part file for reading, each byte of it held against the seal; raises `DamagedPart` where they differ."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._source = source
        self._name = name
        self._at = 0
        self._size = source.seek(0, io.SEEK_END)
        length, parquet = _LENGTH.unpack(self._last(_LENGTH.size))
        if parquet != _PARQUET:
            raise self._damaged("it does not end as a Parquet file does")
        before = self._size - _LENGTH.size - length
        found = self._last(self._size - before + _SEAL.size)
        self._end, digest, seal = _SEAL.unpack(found[: _SEAL.size])
        if seal != _NAME:
            raise self._damaged("it has no seal: another tool wrote it, or its footer was changed")
        self._tail = self._last(self._size - self._end)
        self.footer = found[_SEAL.size :]
        """Parquet's footer with its length and name, checked."""
        sums = self._tail[: before - _SEAL.size - self._end]
        if len(sums) != 4 * -(-self._end // _BLOCK) or digest != _hash(sums, self._end, self.footer):
            raise self._damaged("its footer is not the one that was written")
        self._sums = array("I", sums)

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def seekable(self) -> bool:
        """At any place."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; raises `DamagedPart`, and what the source raises."""
        start = self._at
        end = self._size if size is None or size < 0 else min(start + size, self._size)
        found = self._checked(start, min(end, self._end)) if start < min(end, self._end) else b""
        if end > self._end:
            found += self._tail[max(start - self._end, 0) : end - self._end]
        self._at = max(start, end)
        return found

    def _checked(self, start: int, end: int) -> bytes:
        first = start // _BLOCK
        low, high = first * _BLOCK, min(-(-end // _BLOCK) * _BLOCK, self._end)
        self._source.seek(low)
        data = self._source.read(high - low)
        if len(data) != high - low:
            raise self._damaged("it became shorter while it was read")
        view = memoryview(data)
        for block, at in enumerate(range(0, len(data), _BLOCK), first):
            if zlib.crc32(view[at : at + _BLOCK]) != self._sums[block]:
                last = min((block + 1) * _BLOCK, self._end) - 1
                raise self._damaged(f"its bytes {block * _BLOCK} to {last} are not those that were written")
        return data[start - low : end - low]

    def _last(self, count: int) -> bytes:
        """The file's last bytes, which must be there."""
        if not 0 < count <= self._size:
            raise self._damaged("it is too short for what its end says")
        self._source.seek(self._size - count)
        found = self._source.read(count)
        if len(found) != count:
            raise self._damaged("it became shorter while it was read")
        return found

    def _damaged(self, what: str) -> DamagedPart:
        return DamagedPart(f"{self._name}: cut off or damaged: {what}. Fetch it again or write it anew.")


def _sums(data: bytes) -> bytes:
    """A checksum (CRC-32) per block."""
    view = memoryview(data)
    return array("I", [zlib.crc32(view[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]).tobytes()


def _hash(sums: bytes, end: int, footer: bytes) -> bytes:
    return hashlib.blake2b(b"".join((sums, end.to_bytes(8, "little"), _NAME, footer)), digest_size=16).digest()
