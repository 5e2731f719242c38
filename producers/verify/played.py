"""A recording played through websocket, feed and log, and the feature rows that the live path makes of it.

Called by `observator verify import`. `on_kafka` runs the real processes over a broker of its own, `in_memory` the same
code in threads over the in-memory log. It never alters a frame.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from infra.configuration import save
from infra.errors import Retry
from infra.kafka import KafkaLog
from infra.log import Log, slots_of
from infra.memory_log import MemoryLog
from infra.servers.jars import default_cache
from infra.servers.kafka import KafkaServer
from infra.settings import Settings
from producers.sandbox.thread import SandboxThread
from streams.columns import read_records
from streams.messages import FeedEvent
from streams.process import topic_specs
from streams.runner import GROUP, FeatureLoop, options_of
from streams.stage import INPUTS

PROCESSES = ("streams", "sandbox", "feed")
"""As in the `Procfile`; what reads runs before what writes."""
_BROKER_S = 240.0
_START_S = 240.0
_ROOT = Path(__file__).parents[2]
Question = Callable[[], bool]


def settings_for(home: Path, recording: Path, speed: float) -> Settings:
    """A deployment that plays one file."""
    feed = {"kind": "recording", "recording": recording, "speed": speed}
    return Settings.model_validate({"home": home, "feed": feed})


@contextmanager
def in_memory(recording: Path, speed: float, length_s: float) -> Iterator[Log]:
    """Play it over the in-memory log; it holds raw records and feature rows."""
    from producers.upbit import feed  # noqa: PLC0415 - the SDK takes a second to import

    stop = threading.Event()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observator-import-")))
        log = stack.enter_context(MemoryLog())
        log.create_topics(topic_specs())
        sandbox = stack.enter_context(SandboxThread(home, kind="recording", recording=recording, speed=speed))
        settings = settings_for(home, recording, speed)
        settings = settings.model_copy(update={"sandbox": settings.sandbox.model_copy(update={"port": sandbox.port})})
        thread = threading.Thread(target=feed.run, args=(settings, log, stop), name="feed")
        thread.start()
        try:
            _wait(lambda: _is_ended(log), _START_S + length_s / speed, thread.is_alive)
        finally:
            stop.set()
            thread.join()
        make_rows(log, settings)
        yield log


@contextmanager
def on_kafka(recording: Path, speed: float, length_s: float) -> Iterator[Log]:
    """Play it with the real processes over a broker of its own; the log is read before they end."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observator-import-")))
        broker = KafkaServer(home / "broker", default_cache(os.environ))
        stack.callback(broker.stop)
        broker.start(_BROKER_S)
        settings = settings_for(home, recording, speed)
        settings = settings.model_copy(
            update={"kafka": settings.kafka.model_copy(update={"bootstrap": broker.bootstrap})}
        )
        save(settings, home / "settings.json")
        log = stack.enter_context(KafkaLog(broker.bootstrap, ""))
        _wait(lambda: _has_topics(log), _START_S)
        children = [stack.enter_context(_process(name, home)) for name in PROCESSES]

        def are_alive() -> bool:
            return all(child.poll() is None for child in children)

        _wait(lambda: _is_ended(log), _START_S + length_s / speed, are_alive, home)
        _wait(lambda: _is_read(log), _START_S, are_alive, home)
        yield log


def make_rows(log: Log, settings: Settings) -> None:
    """Run the feature stage over a log in memory, to its end."""
    loop = FeatureLoop(log, options_of(settings), batch=settings.streams.batch, poll_s=0)
    while loop.step():
        pass
    loop.commit()
    loop.vanish()


def _has_topics(log: Log) -> bool:
    log.create_topics(topic_specs())
    log.bounds(slots_of(log, [spec.name for spec in topic_specs()]))  # raises while a leader does not serve yet
    return True


def _is_ended(log: Log) -> bool:
    """Whether the feed has said that the recording is over."""
    events = [message for _, message in read_records(log, "feed-events") if isinstance(message, FeedEvent)]
    return any(event.kind == "ended" for event in events)


def _is_read(log: Log) -> bool:
    """Whether the feature stage has read everything."""
    slots = slots_of(log, INPUTS)
    ends = {slot: end for slot, (_, end) in log.bounds(slots).items()}
    committed = log.committed(GROUP, slots)
    return all(committed.get(slot, 0) == end for slot, end in ends.items())


@contextmanager
def _process(name: str, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One process of the `Procfile`, its lines in a file of the folder."""
    with (home / f"{name}.log").open("wb") as lines:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "observator", "--settings", str(home / "settings.json"), "process", name],
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            cwd=_ROOT,
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(question: Question, timeout_s: float, is_alive: Question = lambda: True, home: Path | None = None) -> None:
    until = time.monotonic() + timeout_s
    while True:
        with suppress(Retry):  # the log does not answer for a moment
            if question():
                return
        if not is_alive() or time.monotonic() > until:
            said = [file.read_text(errors="replace")[-1_500:] for file in sorted(home.glob("*.log"))] if home else []
            raise RuntimeError("the recording did not come to its end:\n" + "\n".join(said))
        time.sleep(0.2)
