"""Looks for marked secrets in raw bytes, in every form that a program might have given them; used by `secrets`.

A form is what a secret looks like as plain text, UTF-16, hex, base64 (wherever it begins inside what was encoded), in
a URL, or inside JSON. All marked secrets begin with one marker, so that much memory is read through for a few short
anchors; where one stands, the whole secrets are looked for around it. Pure but for the readers at the end.
"""

import base64
import json
import re
import resource
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from io import FileIO
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np

AROUND = 1_200
"""Bytes before and behind an anchor that are looked at: the longest form of the longest secret and more."""
CHUNK = 8 << 20
SHORTEST = 6
PAGE = resource.getpagesize()
_ENTRY = 8
_NOTHING = bytes(CHUNK)
_MAP = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)\n((?:[A-Z]\w+:.*\n)+)", re.MULTILINE)
_SIZE = re.compile(r"^(?:Rss|Swap): +(\d+)", re.MULTILINE)


def forms(text: bytes) -> dict[bytes, str]:
    """Pattern -> name of the form."""
    found: dict[bytes, str] = {text: "plain"}

    def add(pattern: bytes, name: str) -> None:
        if len(pattern) >= SHORTEST:
            found.setdefault(pattern, name)

    for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
        for pattern in _aligned(text, encode):
            add(pattern, name)
    add(text.hex().encode(), "hex")
    add(text.hex().upper().encode(), "hex")
    try:
        plain = text.decode()
    except UnicodeDecodeError:
        return found
    add(plain.encode("utf-16-le"), "utf-16")
    for spelled in (quote(plain, safe=""), quote_plus(plain), quote(plain)):
        add(spelled.encode(), "url")
        add(spelled.lower().encode(), "url")
    inside = json.dumps(plain)[1:-1]
    add(inside.encode(), "json")
    add(json.dumps(inside)[1:-1].encode(), "json in json")
    add(repr(plain)[1:-1].encode(), "repr")
    return found


def _aligned(text: bytes, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """The characters of a base64 text that depend on the secret alone, for each of its three places in a group."""
    for before in range(3):
        coded = encode(b"\0" * before + text)
        begin = -(-before * 8 // 6)
        end = (before + len(text)) * 8 // 6
        yield coded[begin:end]


class Search:
    """What is looked for, and what was found where. `marker` is how every marked secret begins."""

    def __init__(self, marker: str, marked: Mapping[str, bytes], unmarked: Mapping[str, bytes]) -> None:
        """`marked` and `unmarked`: name -> secret. Each unmarked one costs as much time as many marked ones."""
        self._anchors = list(forms(marker.encode()) | forms(marker.encode().hex().encode()))
        self._marked = {
            pattern: (name, form) for name, secret in marked.items() for pattern, form in forms(secret).items()
        }
        self._unmarked = {
            pattern: (name, form) for name, content in unmarked.items() for pattern, form in forms(content).items()
        }
        self.bytes: Counter[str] = Counter()
        """Bytes looked through, by kind of place."""
        self.hits: Counter[tuple[str, str, str, str]] = Counter()
        """(kind of place, place, secret, form) -> how often."""

    def look(self, kind: str, place: str, chunks: Iterable[bytes]) -> None:
        """Look through a place, piece by piece; a secret on the border of two pieces is found."""
        rest = b""
        for chunk in chunks:
            self.bytes[kind] += len(chunk)
            if chunk == _NOTHING[: len(chunk)]:
                rest = b""
                continue
            piece = rest + chunk
            self._look(kind, place, piece)
            rest = piece[-AROUND:]

    def _look(self, kind: str, place: str, piece: bytes) -> None:
        for pattern, (name, form) in self._unmarked.items():
            if pattern in piece:
                self.hits[kind, place, name, form] += 1
        windows = []
        for anchor in self._anchors:
            at = piece.find(anchor)
            while at >= 0:
                windows.append(piece[max(0, at - AROUND) : at + AROUND])
                at = piece.find(anchor, at + 1)
        for window in windows:
            for pattern, (name, form) in self._marked.items():
                if pattern in window:
                    self.hits[kind, place, name, form] += 1

    def found(self, name: str) -> dict[str, set[str]]:
        """Kind of place -> the forms in which a secret was found there."""
        kinds: dict[str, set[str]] = {}
        for kind, _, secret, form in self.hits:
            if secret == name:
                kinds.setdefault(kind, set()).add(form)
        return kinds


# --- readers --------------------------------------------------------------------------------------------------------


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file as it lies on the disk; one that has gone meanwhile is empty."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError:
        return


def database_rows(path: Path) -> Iterator[bytes]:
    """Every value in an SQLite file, whole: on the disk a long one lies in pieces."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        connection.text_factory = bytes
        names = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            for row in connection.execute(f'SELECT * FROM "{name}"'):  # noqa: S608 - a table's own name
                yield b"\0".join(one if isinstance(one, bytes) else str(one).encode() for one in row) + b"\0"


def memory_chunks(pid: int) -> Iterator[bytes]:
    """What a process has in its memory, as a core dump would hold it, and its command line and environment."""
    for name in ("cmdline", "environ"):
        yield Path(f"/proc/{pid}/{name}").read_bytes()
    with (
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
        Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pages,
    ):
        for begin, end in _regions(Path(f"/proc/{pid}/smaps").read_text()):
            for first, last in _touched(pages, begin, end):
                yield from _region(memory, first, last)


def _regions(smaps: str) -> Iterator[tuple[int, int]]:
    """Begin and end of what a core dump would hold: all that was written to, none of what was never touched."""
    for begin, end, rights, name, sizes in _MAP.findall(smaps):
        is_own_file = name.startswith("/") and "w" not in rights  # a program's or a library's, unchanged
        is_there = any(int(size) for size in _SIZE.findall(sizes))
        if "r" in rights and is_there and not is_own_file and not name.startswith(("[vvar", "[vsyscall", "[vdso")):
            yield int(begin, 16), int(end, 16)


def _region(memory: FileIO, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        try:
            memory.seek(begin)
            chunk = memory.read(min(CHUNK, end - begin))
        except (OSError, ValueError, OverflowError):
            return  # unmapped meanwhile, or a device's
        if not chunk:
            return
        yield chunk
        begin += len(chunk)


def _touched(pages: FileIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The stretches of a region whose pages are in memory or swapped out; the others were never written to."""
    pages.seek(begin // PAGE * _ENTRY)
    flags = np.frombuffer(pages.read((end - begin) // PAGE * _ENTRY), dtype="<u8") >> np.uint64(62)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags != 0, [0]))))
    for first, last in edges.reshape(-1, 2):
        yield begin + int(first) * PAGE, begin + int(last) * PAGE
