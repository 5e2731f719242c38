"""Tells glibc's allocator to give memory back, so that a process that runs for weeks does not spread.

Called once by every process of the `Procfile`, before it starts a thread. Elsewhere than on glibc nothing happens.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE = {"feed": 4_194_304}
"""The feed compresses a hundred batches a second and takes 1.4 MB for each: it keeps them."""
_OTHERS = 131_072


def settle(process: str) -> bool:
    """One arena for all threads, and large pieces go back to the system when they are freed; whether that holds.

    By default every thread of librdkafka, and each short one that commits, gets an arena of its own, and the size from
    which pieces go back grows to that of the largest one freed: fetched batches leave holes behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    large = _LARGE.get(process, _OTHERS)
    wanted = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, large), (_TRIM_THRESHOLD, 2 * large))
    return all(mallopt(name, value) == 1 for name, value in wanted)
