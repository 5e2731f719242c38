"""What an archive says of itself: to which log it belongs, where it ends in each partition, what it lacks.

Called by the process, by its verbs and by `days`. It never changes what is written: `archive.json` is written once.
"""

import uuid

import msgspec

from infra.errors import Stop
from infra.manifest import project_version
from infra.store import Store, StoreUnavailable
from streams.archive_spans import Missing
from streams.archived import FORMAT, MARK
from streams.archived import Mark as Root

ROOT = MARK
_CLAIMS = "claims"
"""Folder of the files by which runs say that they begin in a bucket; each is there for a moment."""
__all__ = ["ROOT", "Root", "check_run", "claim", "make_root", "read_root", "write_missing", "write_root"]


def read_root(store: Store) -> Root | None:
    """What stands in `archive.json`; None where there is none. Raises `Stop` where it cannot be read."""
    try:
        return msgspec.json.decode(store.read(ROOT), type=Root)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise Stop(f"{store.url}/{ROOT} cannot be read ({error}): is this the folder of an archive?") from error


def make_root(prefix: str, made_ms: int) -> Root:
    """That of a new archive."""
    by = f"observator {project_version()}"
    return Root(format=FORMAT, run=uuid.uuid4().hex, prefix=prefix, kind="log", made_ms=made_ms, by=by)


def write_root(store: Store, root: Root) -> None:
    """Write it, once."""
    store.write(ROOT, msgspec.json.format(msgspec.json.encode(root)))


def check_run(store: Store, root: Root) -> None:
    """Raise `Stop` for a store of another run."""
    found = read_root(store)
    if found is not None and found.run != root.run:
        raise Stop(
            f"{store.url} holds the archive of another run ({found.run}; this one is {root.run}): set archive.target"
            " to a folder of its own in the bucket. Nothing was written there."
        )


def claim(store: Store, root: Root, data: bytes) -> None:
    """Write `archive.json` into an empty bucket, which only one of several runs that begin at once comes to own.

    Each says first that it begins, and goes on only where no other says so: whoever looks second sees either the
    other's word or, after that was taken back, the other's `archive.json`.
    """
    mine = f"{_CLAIMS}/{root.run}.json"
    if foreign := [name for name in store.names() if not name.startswith(f"{_CLAIMS}/")]:
        raise Stop(
            f"{store.url} holds files ({foreign[0]}), but no archive: set archive.target to an empty folder, or put"
            " archive.json back where it is this run's"
        )
    store.write(mine, data)
    try:
        if others := [name for name in store.names(_CLAIMS) if name != mine]:
            raise StoreUnavailable(
                f"{store.url}: another run begins its archive there ({', '.join(others)}): set archive.target to a"
                " folder of its own. Remove that file where no such run exists."
            )
        check_run(store, root)
        if read_root(store) is None:
            store.write(ROOT, data)
    finally:
        store.delete(mine)


def write_missing(store: Store, run: str, missing: Missing, found_ms: int) -> None:
    """Say in the archive itself that it lacks these offsets."""
    slot, first, last = missing
    told = {
        "run": run, "topic": slot.topic, "partition": slot.partition, "first": first, "last": last,
        "found_ms": found_ms, "reason": "the log had deleted them before they were read",
    }  # fmt: skip
    store.write(missing.name, msgspec.json.encode(told))
