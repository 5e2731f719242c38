"""What a process tells glibc's allocator: in a process of its own each, because it cannot be told back."""

import json
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, json, sys, threading
from infra import allocator
is_settled = allocator.settle(sys.argv[1]) if sys.argv[1] else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def is_in(kind, address):
    for line in open("/proc/self/maps"):
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return line.rstrip().endswith(kind)

small = []
thread = threading.Thread(target=lambda: small.append(libc.malloc(5_000)))
thread.start()
thread.join()
libc.free(libc.malloc(4_100_000))  # where nothing is settled, pieces up to this size stay in the heap from now on
large = libc.malloc(1_000_000)
print(json.dumps([is_settled, is_in("[heap]", small[0]), is_in("[heap]", large)]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.parametrize(
    ("process", "found"), [("trade", [True, True, False]), ("feed", [True, True, True]), ("", [None, False, True])]
)
def test_threads_share_an_arena_and_large_pieces_go_back(process: str, found: list[bool | None]) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, process], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == found
