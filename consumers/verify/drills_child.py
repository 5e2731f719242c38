"""Executor processes of `verify drills`: a parent in prepared surroundings forks one executor after the other.

Started as `python -m consumers.verify.drills_child OPTIONS`; reads one JSON line per life from its input (`point`,
`nth`, `act`, `pid`) and writes one when it begins and one when it ends. The executor is the real one, built by the
child of `verify orders`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consumers.execute.crash import Reach, act_at, reach_nothing
from consumers.execute.guard import refuse_real_exchange, remove_exchange_variables
from consumers.execute.verify_child import live
from consumers.verify import drills_surroundings as around


def acting_at(point: str, nth: int, act: str, pid: int) -> Reach:
    """At the `nth` passage of `point`, once: `stop` this process (SIGSTOP), or `kill` the process `pid` and go on."""
    if act == "stop":
        return act_at(point, nth, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    return act_at(point, nth, lambda: os.kill(pid, signal.SIGKILL))


def surround(values: dict[str, Any]) -> bool:
    """Prepare what the options ask for; whether it is in a mount namespace."""
    home = Path(values["home"])
    has_namespace = bool(values.get("names")) and around.own_mounts()
    if values.get("names"):
        (around.own_names if has_namespace else around.watched_names)(home)
    if values.get("clock"):
        around.shifted_clock(Path(values["clock"]))
    return has_namespace


def serve(values: dict[str, Any], read_line: Callable[[], str], write: Callable[[str], None]) -> None:
    """Fork one executor per input line, say its process id, wait for its end and say how it was."""
    while line := read_line():
        wanted = json.loads(line)
        reach = acting_at(wanted["point"], wanted["nth"], wanted["act"], wanted["pid"]) if wanted["point"] else None
        pid = os.fork()
        if pid == 0:
            os._exit(_live(values, wanted, reach))
        write(json.dumps({"pid": pid}))
        _, status = os.waitpid(pid, 0)
        how = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        write(json.dumps({"signal": how, "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0}))


def _live(values: dict[str, Any], wanted: dict[str, Any], reach: Reach | None) -> int:
    if reach is not None and wanted["point"] == "in-buffer":
        around.watch_orders(reach)
        reach = None
    if wanted.get("file_bytes"):
        around.small_files(wanted["file_bytes"])
    return live(values, reach or reach_nothing)


def main() -> None:
    """Read the options, prepare the surroundings, close the doors to the real exchange, serve."""
    values = json.loads(sys.argv[1])
    has_namespace = surround(values)
    refuse_real_exchange()
    remove_exchange_variables(os.environ)

    def write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    write(json.dumps({"has_namespace": has_namespace, "began_s": time.monotonic()}))
    serve(values, sys.stdin.readline, write)


if __name__ == "__main__":
    main()
