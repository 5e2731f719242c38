"""Tells glibc's allocator to give memory back, so that a process that runs for weeks does not spread.

Called once by every process of the `Procfile`, before it starts a thread. Elsewhere than on glibc nothing happens.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_PIECE_BYTES = 128 * 1024


def settle() -> bool:
    """One arena for all threads, and pieces from 128 KiB on go back to the system when freed; whether that holds.

    By default every thread of librdkafka, and each short one that commits, gets an arena of its own, and the size from
    which pieces go back grows to that of the largest one freed: fetched and compressed batches leave holes behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _PIECE_BYTES), (_TRIM_THRESHOLD, _PIECE_BYTES))
    return all(mallopt(name, value) == 1 for name, value in wanted)
