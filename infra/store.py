"""A place for whole files: a folder or a bucket (S3), with one interface.

Used by the archive and by whatever reads one. A file appears under its name whole or not at all and is durable when
`write` returns. What fails is told by reaction (`StoreUnavailable`, `StoreFull`: later again; `StoreRefused`: stop);
a missing file is `FileNotFoundError`, and a bucket that is gone is never taken for an empty one.
"""

import errno
import json
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from infra.errors import BadSettings, Retry, Stop
from infra.secrets import Secret
from infra.settings import Settings

UNFINISHED = ".unfinished"
"""Folder below the root of a `FolderStore` in which files are written before they get their name."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class StoreUnavailable(Retry):
    """The store does not answer, or the bucket or folder is gone; nothing is known of what it holds."""


class StoreFull(Retry):
    """There is no room; nothing half-written is left under a name."""


class StoreRefused(Stop):
    """Wrong secret, or no right to read or write."""


class Store(Protocol):
    """Files by name; names are relative, with `/` between their parts."""

    url: str
    """For people and logs; it holds no secret."""

    def sizes(self, under: str = "") -> dict[str, int]:
        """Every file below the folder `under` (all: "") with its bytes, in order of names."""

    def names(self, under: str = "") -> list[str]:
        """The names alone, in order."""

    def read(self, name: str) -> bytes:
        """Whole content; raises `FileNotFoundError`."""

    def open(self, name: str) -> BinaryIO:
        """For reading parts of it (seekable); raises `FileNotFoundError`. The caller closes it."""

    def write(self, name: str, data: bytes) -> None:
        """Put it there whole, over what was there; durable when this returns."""

    def size(self, name: str) -> int | None:
        """Bytes; None where there is no such file."""

    def delete(self, name: str) -> None:
        """Remove it; nothing happens where it is not there."""

    def check(self) -> None:
        """Write a small file, read it back, remove it. Raises `BadSettings` with what to do where that fails."""


class FolderStore:
    """A folder of this machine; see `Store`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def sizes(self, under: str = "") -> dict[str, int]:
        """Every file below a folder with its bytes."""
        found: dict[str, int] = {}
        waiting = [self._path(under) if under else self.path]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir():
                            waiting.append(Path(entry.path))
                        else:
                            with suppress(FileNotFoundError):  # removed meanwhile
                                found[Path(entry.path).relative_to(self.path).as_posix()] = entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise told(error, self.url) from error
        return dict(sorted(found.items()))

    def names(self, under: str = "") -> list[str]:
        """The names alone."""
        return list(self.sizes(under))

    def read(self, name: str) -> bytes:
        """Whole content."""
        with self.open(name) as file:
            try:
                return file.read()
            except OSError as error:
                raise told(error, f"{self.url}/{name}") from error

    def open(self, name: str) -> BinaryIO:
        """For reading parts of it."""
        try:
            return self._path(name).open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise told(error, f"{self.url}/{name}") from error

    def write(self, name: str, data: bytes) -> None:
        """Write it aside, make it durable, then give it its name."""
        path = self._path(name)
        fresh = self.path / UNFINISHED / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            _make_folder(fresh.parent)
            _make_folder(path.parent)
            with fresh.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            _make_durable(path.parent)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise told(error, f"{self.url}/{name}") from error

    def size(self, name: str) -> int | None:
        """Bytes."""
        try:
            found = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise told(error, f"{self.url}/{name}") from error
        return None if stat.S_ISDIR(found.st_mode) else found.st_size

    def delete(self, name: str) -> None:
        """Remove it, and the folders that are empty then."""
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.path or not _is_removed(folder):
                    break
        except OSError as error:
            raise told(error, f"{self.url}/{name}") from error

    def check(self) -> None:
        """Try it."""
        try_out(self, f"the folder {self.path}", "Look at its rights and room, or set `archive.target` to another one.")

    def sweep(self) -> None:
        """Remove what writers that were killed left unfinished; for the only writer of this folder."""
        shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.path / checked(name)


def local_store(settings: Settings) -> FolderStore:
    """The archive's folder on this machine: the archive itself, or what waits for its bucket."""
    return FolderStore(settings.home / "archive")


def open_store(settings: Settings) -> Store:
    """The archive that `archive.target` names; of a bucket with the key of its secrets file."""
    return store_at(settings.archive.target, settings) if settings.archive.target else local_store(settings)


def folder_at(where: str) -> FolderStore:
    """The folder that a person named; raises `BadSettings` for a file."""
    path = Path(where).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise BadSettings(f"{path} is a file: name a folder, or s3://bucket/folder.")
    return FolderStore(path)


def store_at(where: str, settings: Settings) -> Store:
    """A folder, or `s3://bucket/folder` at the endpoint and with the key of the settings; raises `BadSettings`."""
    if not where.startswith("s3://"):
        return folder_at(where)
    if not where.removeprefix("s3://").partition("/")[0]:
        raise BadSettings(f"{where!r} names no bucket: write s3://bucket or s3://bucket/folder.")
    from infra.store_s3 import S3Store  # noqa: PLC0415 - heavy, and only buckets need it

    key, secret = key_of(settings.home)
    return S3Store(where, settings.archive.endpoint, key, secret, settings.archive.region)


def key_of(home: Path) -> tuple[str, Secret]:
    """The bucket's key from the secrets file of a run folder; raises `BadSettings` with how to make it."""
    path = home / "run" / "secrets" / "archive"
    try:
        found = json.loads(path.read_text())
        return str(found["key"]), Secret(str(found["secret"]))
    except FileNotFoundError:
        raise BadSettings(f"`archive.target` is a bucket, and its key is missing: {_HOW.format(path)}") from None
    except (ValueError, KeyError, TypeError):  # the cause would show the file's content
        raise BadSettings(f"The bucket's key cannot be read: {_HOW.format(path)}") from None
    except OSError as error:
        raise BadSettings(f"The bucket's key cannot be read: {path}: {error.strerror}") from error


_HOW = 'write {{"key": "...", "secret": "..."}} into {0} (readable by its owner alone: chmod 600).'


def told(error: OSError, where: str) -> Exception:
    """The same error by what to do."""
    if isinstance(error, FileNotFoundError):
        return error
    text = f"{where}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreFull(f"{text}. Nothing was written there: make room, it is tried again.")
    if error.errno in _REFUSED:
        return StoreRefused(f"{text}. Look at its rights.")
    return StoreUnavailable(text)


def checked(name: str) -> str:
    """A name that stays below the root; raises `ValueError`."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in name:
        raise ValueError(f"{name!r} is no name of a file in a store")
    return name


def try_out(store: Store, what: str, remedy: str) -> None:
    """Write, read and remove a small file; `StoreUnavailable` and `StoreFull` stay what they are."""
    name, data = f"check-{secrets.token_hex(4)}", b"observator"
    try:
        store.write(name, data)
        if store.read(name) != data or store.size(name) != len(data):
            raise BadSettings(f"{what} does not give back what was written there. {remedy}")
        store.delete(name)
    except (StoreRefused, FileNotFoundError) as error:
        raise BadSettings(f"{what} cannot be used: {error}. {remedy}") from error


def _make_folder(folder: Path) -> None:
    """Make it with its parents, each of them durable in the one above."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    _make_durable(folder.parent)


def _make_durable(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_removed(folder: Path) -> bool:
    """Remove a folder where it is empty."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
