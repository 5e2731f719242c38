"""What a process tells glibc's allocator (in a process of its own each, it cannot be told back), and what it takes."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.own_memory import own_memory_mb

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


def test_own_memory_is_what_a_process_wrote_and_no_mapped_file(tmp_path: Path) -> None:
    mapped = tmp_path / "mapped"
    mapped.write_bytes(bytes(60 << 20))
    program = (
        "import mmap, sys\n"
        "written = b'x' * (30 << 20)\n"
        f"with open({str(mapped)!r}, 'rb') as file:\n"
        "    pages = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)\n"
        "touched = sum(pages[at] for at in range(0, len(pages), 4096))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert 30 < own_memory_mb(psutil.Process(child.pid)) < 60
        child.kill()
