"""`observator verify secrets`: a full run with marked keys, then a search of everything that it left.

Searched are the raw bytes of every record of every topic, every log file, database, further file of the run folder,
everything that was said to people, and the memory of every process but two: the executor, which must hold the keys, and
the sandbox, which is the exchange. The API's token is looked for in the executor, too, and may stand in the API's own
memory only. Not searched in the run folder are the executor's own secret files. That the search
finds what is there is shown by a text that is planted in each kind of place.
"""

import base64
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from consumers.verify.secrets_canaries import Canaries
from consumers.verify.secrets_play import play
from consumers.verify.secrets_run import API_TOKEN, FULL, QUICK, Happened, Stage, stage
from consumers.verify.secrets_search import Search, database_rows, file_chunks, memory_chunks
from infra.errors import LogUnavailable
from infra.figures import result_of
from streams.messages import DeadLetter

PLANTED = "planted"
PATIENCE_S = 60.0
KINDS = ("topics", "log files", "databases", "run folder", "said to people", "memory")
OWN = ("run/executor", "run/secrets")
"""The executor's own secret files."""
_HOLDER = "import sys; text = sys.stdin.readline().strip(); print('ready', flush=True); sys.stdin.readline()"


def verify_secrets(*, quick: bool = False) -> dict[str, object]:
    """Run, plant, search, and say what was found."""
    canaries = Canaries()
    names = QUICK if quick else FULL
    started_s = time.monotonic()
    with stage(canaries, names) as running:
        play(running, quick=quick)
        played_s = time.monotonic() - started_s
        with _planted(running, canaries.plain(PLANTED)) as holder:
            search = Search(canaries.marker, canaries.marked, canaries.unmarked)
            looked_at = _look_everywhere(running, search, holder)
            in_executor = _in_executor(running, Search(canaries.marker, canaries.marked, {}))
        happened = running.happened
    own = {key for key in search.hits if _is_in_the_api(*key)}
    hits = {key for key in search.hits if key[2] != PLANTED} - own
    controls = search.found(PLANTED)
    unfound = [kind for kind in KINDS if kind not in controls]
    conditions = {
        "processes": list(names),
        "memory looked at": looked_at,
        "hits": sorted(" | ".join(key) for key in hits)[:50],
        "not as it must": happened.wrong[:20],
        "forms in which the planted text was found": sorted({form for found in controls.values() for form in found}),
        "planted text not found in": unfound,
        "left out": ["memory of execute", "memory and run folder of the sandbox (the exchange)", *OWN],
    }
    figures = {
        "hits": len(hits),
        "kinds of places where the planted text was found": len(KINDS) - len(unfound),
        "kinds of places": len(KINDS),
        "marked secrets": len(canaries.marked) - 1 + len(canaries.unmarked),
        "marked secrets seen in the executor's own memory": in_executor,
        "forms of the API's token seen in its own memory": len(own),
        "seconds of the run": round(played_s, 1),
        "seconds of the search": round(time.monotonic() - started_s - played_s, 1),
    }
    passed = bool(own) and not hits and not unfound and not happened.wrong and in_executor != 0
    return result_of("secrets", figures | _amounts(search, happened), conditions, passed=passed)


def _amounts(search: Search, happened: Happened) -> dict[str, float]:
    """How much was looked through, and how often what happened."""
    return {
        "things that did not happen as they must": len(happened.wrong),
        **{f"MB looked through: {kind}": round(search.bytes[kind] / 1e6, 3) for kind in KINDS},
        **{what: float(number) for what, number in sorted(happened.counts.items())},
    }


# --- the control ----------------------------------------------------------------------------------------------------


@contextmanager
def _planted(running: Stage, text: str) -> Iterator[int]:
    """Put the text into each kind of place, in another form each; gives a process that holds it in its memory."""
    home = running.home
    letter = DeadLetter.of("verify", "orderbooks", 0, 0, "", "planted", f"xx{text}".encode())
    running.publish("dead-letters", letter)
    (home / "logs" / "planted.log").write_text(f"something\n{text.encode().hex()}\n")
    with closing(sqlite3.connect(home / "db" / "planted.sqlite")) as connection:
        connection.execute("CREATE TABLE planted (value BLOB)")
        connection.execute("INSERT INTO planted VALUES (?)", (b"x" * 30_000 + text.encode("utf-16-le"),))
        connection.commit()
    (home / "run" / "planted.txt").write_bytes(base64.b64encode(f"x{text}".encode()))
    running.command("read", text, expected=2)
    with subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-I", "-S", "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            holder.stdin.write(f"{text}\n")
            holder.stdin.flush()
            holder.stdout.readline()
            yield holder.pid
        finally:
            holder.kill()


# --- the places -----------------------------------------------------------------------------------------------------


def _look_everywhere(running: Stage, search: Search, holder: int) -> list[str]:
    """Look through everything; returns the names of the processes whose memory was read."""
    looked_at = _look_at_memory(running, search, holder)
    bootstrap = running.running.log.bootstrap
    for topic, chunks in _topics(bootstrap):
        search.look("topics", topic, chunks)
    for number, text in enumerate(running.happened.said):
        search.look("said to people", str(number), [text.encode()])
    for path in sorted(running.home.rglob("*")):
        name = str(path.relative_to(running.home))
        if path.is_symlink() or not path.is_file() or name.startswith(OWN):
            continue
        kind = "log files" if name.startswith("logs/") else "databases" if name.startswith("db/") else "run folder"
        search.look(kind, name, file_chunks(path))
        if path.suffix == ".sqlite":
            search.look(kind, f"{name}, row by row", database_rows(path))
    return looked_at


def _look_at_memory(running: Stage, search: Search, holder: int) -> list[str]:
    """Every process that this one started, but for the executor and the exchange."""
    executor = running.running.children.process("execute").pid
    names = []
    for process in psutil.Process().children(recursive=True):
        if process.pid in {executor, os.getpid()} or process.status() == psutil.STATUS_ZOMBIE:
            continue
        line = process.cmdline()
        if "sandbox" in line:
            continue
        name = "planted" if process.pid == holder else " ".join(line[-2:])[-60:]
        search.look("memory", f"{process.pid} {name}", memory_chunks(process.pid))
        names.append(name)
    return sorted(names)


def _in_executor(running: Stage, search: Search) -> int:
    """How many marked secrets stand where they must: the search sees keys in a memory. -1 where it is closed to us."""
    try:
        search.look("executor", "memory", memory_chunks(running.running.children.process("execute").pid))
    except PermissionError:
        return -1
    found = {name for _, _, name, _ in search.hits if name != PLANTED}
    running.happened.require("the API's token stands in the executor's memory", is_so=API_TOKEN not in found)
    return len(found)


def _is_in_the_api(kind: str, place: str, name: str, _form: str) -> bool:
    """Whether this is the API's token in the memory of the API, where it must be."""
    return kind == "memory" and place.endswith(" process api") and name == API_TOKEN


def _topics(bootstrap: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Every record of every topic, the broker's own ones too, as its key, headers and value were written."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "verify-secrets", "enable.auto.commit": False}
    consumer = Consumer({**settings, "isolation.level": "read_uncommitted", "enable.partition.eof": True})
    try:
        for topic, found in consumer.list_topics(timeout=30).topics.items():
            yield topic, _records(consumer, topic, list(found.partitions))
    finally:
        consumer.close()


def _records(consumer: Consumer, topic: str, partitions: list[int]) -> Iterator[bytes]:
    """Everything up to where each partition ends when it is reached."""
    consumer.assign([TopicPartition(topic, one, OFFSET_BEGINNING) for one in partitions])
    left = set(partitions)
    until_s = time.monotonic() + PATIENCE_S
    while left:
        if time.monotonic() > until_s:
            raise LogUnavailable(f"{topic} could not be read to its end")
        for message in consumer.consume(500, 0.2):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's own name
                left.discard(message.partition() or 0)
            if error is None:
                until_s = time.monotonic() + PATIENCE_S
                headers = dict(message.headers() or ())
                for part in (message.key(), message.value(), *headers.values()):
                    if part:
                        yield part if isinstance(part, bytes) else str(part).encode()
