"""Executor processes for `verify orders`: a parent that has everything imported forks one executor after the other.

Started as `python -m consumers.execute.verify_child OPTIONS`; reads one JSON line per life from its input and writes
one when the life ends. Each life is a process of its own that `kill -9` ends, from outside or at a named crash point.
Forking saves the imports; before the fork there is one thread and no connection.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any

from consumers.execute.attempts import Rules
from consumers.execute.crash import Reach, kill_at, reach_nothing
from consumers.execute.executor import run_executor
from consumers.execute.guard import refuse_real_exchange, remove_exchange_variables
from consumers.execute.keyring import FileKeyRing
from consumers.execute.limits import RiskLimits
from consumers.execute.options import Options
from infra.kafka import KafkaLog

_MUCH = Decimal(10**12)


def options_of(values: dict[str, Any]) -> Options:
    """The options of an executor from the line that describes it."""
    home = Path(values["home"])
    return Options(
        home=home,
        address=values["address"],
        keys=FileKeyRing(home / "run" / "secrets"),
        database=values["database"],
        lease_s=values["lease_s"],
        pocket=values["pocket"],
        instance=values["instance"],
        timeout_s=values["timeout_s"],
        rules=Rules(**values["rules"]),
        limits=RiskLimits(_MUCH, 1_000_000, 1_000_000, _MUCH, _MUCH),
    )


def live(values: dict[str, Any], reach: Reach) -> int:
    """One life of an executor, in the child; returns its exit status."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.basicConfig(filename=values["logfile"], level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with KafkaLog(values["bootstrap"], values["prefix"]) as log:
            run_executor(options_of(values), log, stop, reach)
    except Exception:  # outermost of a forked child: its parent reads the status, the file says why
        logging.getLogger(__name__).exception("the executor ended")
        return 1
    return 0


def serve(values: dict[str, Any], read_line: Callable[[], str], write: Callable[[str], None]) -> None:
    """Fork one executor per input line, say its process id, wait for its end and say how it was."""
    while line := read_line():
        wanted = json.loads(line)
        reach = kill_at(wanted["point"], wanted["nth"]) if wanted["point"] else reach_nothing
        pid = os.fork()
        if pid == 0:
            os._exit(live(values, reach))
        write(json.dumps({"pid": pid}))
        _, status = os.waitpid(pid, 0)
        write(json.dumps({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}))


def main() -> None:
    """Read the options, close the doors to the real exchange, serve."""
    refuse_real_exchange()
    remove_exchange_variables(os.environ)

    def write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    serve(json.loads(sys.argv[1]), sys.stdin.readline, write)


if __name__ == "__main__":
    main()
