"""A small file system for a trial's archive, where the system lets us have one; and the end of a trial's process.

Called by `archive_trials`.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from consumers.verify.drills_surroundings import mount_small, unmount

SMALL_KILOBYTES = 400
_REMOUNT = 32


@contextmanager
def small(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Make the folder a file system of this size for as long as this lasts; False where the system refuses."""
    try:
        mount_small(folder, kilobytes)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        unmount(folder)


def grow(folder: Path) -> None:
    """Make it a hundred times larger; what stands in it stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={100 * SMALL_KILOBYTES}k".encode()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", _REMOUNT, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))


def kill(pid: int) -> None:
    """End a life of the trial at once."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
