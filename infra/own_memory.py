"""How much memory a process has for itself; used by the checks that watch it over hours."""

import contextlib
from pathlib import Path

import psutil


def own_memory_mb(process: psutil.Process) -> float:
    """What it has written, in MB, swapped out or not; the files that it has mapped are left out.

    Pages of a library would count as its own as soon as the last other process that used them ends: 30 MB at once, for
    nothing that it did.
    """
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return sum(int(fields[name].split()[0]) for name in ("RssAnon", "VmSwap")) / 1024
    return float(process.memory_full_info().uss) / 2**20  # no Linux, or it ends just now
