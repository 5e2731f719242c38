"""What can fail around a process: name resolution, room on the disk, the wall clock, and a request halfway out.

Called by `drills_child` in the process that forks the executors, before it forks, and by `drills_stage`. Names fail for
real, in a mount namespace of the process's own, and the disk is a real small file system; where the system allows
neither, the resolver and the size of files are failed in the process itself, and the figure `real` is 0.
"""

import ctypes
import mmap
import os
import resource
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_PRIVATE, _BIND, _DETACH = 1 << 18 | 16384, 4096, 2
SEEN = "127.0.0.1 localhost\n"
"""The file of names while names can be resolved; it is emptied when they cannot."""
_POST = b"POST /v1/orders "


def own_mounts() -> bool:
    """Give this process a mount namespace of its own; False where the system refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _NEW_MOUNTS if os.geteuid() == 0 else _NEW_MOUNTS | _NEW_USER
    if not hasattr(libc, "unshare") or libc.unshare(flags) != 0:
        return False
    return bool(libc.mount(b"none", b"/", None, _PRIVATE, None) == 0)


def mount_small(folder: Path, kilobytes: int) -> None:
    """Make `folder` a file system of this size; raises `OSError` where the system does not let us."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount(b"tmpfs", str(folder), b"tmpfs", 0, f"size={kilobytes}k".encode())


def unmount(folder: Path) -> None:
    """Take it away again, whoever still has a file open there."""
    ctypes.CDLL(None, use_errno=True).umount2(str(folder).encode(), _DETACH)


def own_names(folder: Path) -> None:
    """From here on names are those of `folder/hosts` alone, for this process and its children only."""
    for name, text in (("nsswitch.conf", "hosts: files\n"), ("resolv.conf", "\n")):
        (folder / name).write_text(text)
    for name in ("hosts", "nsswitch.conf", "resolv.conf"):
        target = Path("/etc") / name
        if target.exists():
            _mount(str(folder / name).encode(), str(target), b"none", _BIND, None)


def _mount(source: bytes, target: str, kind: bytes, flags: int, options: bytes | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source, target.encode(), kind, flags, options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def watched_names(folder: Path) -> None:
    """Without a namespace: the process's own resolver fails as the system's would while `folder/hosts` is empty."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *more: Any, **named: Any) -> Any:
        if host in {"localhost", b"localhost"} and not (folder / "hosts").read_text().strip():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *more, **named)

    socket.getaddrinfo = resolved


def small_files(bytes_: int) -> None:
    """Where nothing can be mounted: no file of this process may grow beyond this."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))


def shifted_clock(file: Path) -> None:
    """From here on the wall clock is as many milliseconds ahead as `file` says, read anew each time."""
    handle = os.open(file, os.O_RDONLY)
    shift = mmap.mmap(handle, 8, prot=mmap.PROT_READ)
    os.close(handle)
    wall_ns, wall_s = time.time_ns, time.time

    def shift_ms() -> int:
        return int(struct.unpack("<q", shift[:8])[0])

    time.time_ns = lambda: wall_ns() + shift_ms() * 1_000_000
    time.time = lambda: wall_s() + shift_ms() / 1000


def set_clock(file: Path, shift_ms: int) -> None:
    """Say how far ahead the clock of `shifted_clock` is."""
    with file.open("r+b" if file.exists() else "wb") as out:
        out.write(struct.pack("<q", shift_ms))


def watch_orders(reach: Callable[[str], None]) -> None:
    """Reach `in-buffer` when a request for an order is about to leave: nothing of it is on the line yet."""
    send = socket.socket.send

    def watched(self: socket.socket, data: Any, *more: Any) -> int:
        if bytes(data[: len(_POST)]) == _POST:
            reach("in-buffer")
        return send(self, data, *more)

    socket.socket.send = watched  # type: ignore[method-assign, assignment]  # only in the drill's own child
