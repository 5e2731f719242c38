"""A real Apache Kafka broker in the run folder, without container or installation, for demo, tests and small use.

The supervisor runs `KafkaServer.command()`; tests call `start`, `stop` and `kill`. One broker per run folder: a lock
that the Java process itself inherits says so, hence it is free again the moment that process is gone, however it went.
"""

import argparse
import base64
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.errors import AlreadyRunning, LogUnavailable, ObservatorError, Stop
from infra.servers.jars import Progress, default_cache, fetch_jars, jar_list
from infra.servers.java import find_java
from infra.servers.ports import claim_port, port_of

VERSION = "4.3.1"
LOWEST_FREE_BYTES = 256 * 2**20
EXIT_STOP = 2
EXIT_ALREADY_RUNNING = 3

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=data
log.cleaner.dedupe.buffer.size=4194304
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.roll.hours=12
log.segment.bytes=268435456
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
"""


def _silent(_what: str, _done: int, _total: int) -> None:
    return


class KafkaServer:
    """The broker of the run folder `home`; its jars come from `cache`.

    `heap_mb` is the largest heap; `extra` are further lines of `server.properties`, for experiments.
    """

    def __init__(
        self,
        home: Path,
        cache: Path,
        *,
        heap_mb: int = 512,
        extra: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.cache = cache.absolute()
        self.folder = self.home / "kafka"
        self._heap_mb = heap_mb
        self._extra = dict(extra or {})
        self._environ = dict(os.environ if environ is None else environ)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients; the same over restarts."""
        return f"127.0.0.1:{port_of(self.home, 'kafka')}"

    @property
    def pid(self) -> int | None:
        """Process id of the broker started by `start`, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def prepare(self, progress: Progress = _silent) -> None:
        """Fetch what is missing on this machine; safe to call at any time, 0.1 s when all is there."""
        find_java(self._environ)
        self._jars(progress)

    def command(self) -> list[str]:
        """What the supervisor runs: one process in the foreground that becomes the broker."""
        extra = [f"--property={name}={value}" for name, value in self._extra.items()]
        heap = f"--heap-mb={self._heap_mb}"
        return [
            sys.executable,
            "-m",
            "infra.servers.kafka",
            f"--home={self.home}",
            f"--cache={self.cache}",
            heap,
            *extra,
        ]

    def run_foreground(self, progress: Progress = _silent) -> None:
        """Become the broker (`execv`); returns never.

        Raises `AlreadyRunning` when the folder's broker runs, `Stop` when the disk is full, `FetchFailed`.
        """
        self._lock()
        self._check_disk()
        java = find_java(self._environ)
        jars = self._jars(progress)
        base = [
            str(java),
            "-Xms64m",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-cp",
            ":".join(map(str, jars)),
        ]
        try:
            self._write_settings()
            self._format(base)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._disk_full() from error
            raise
        os.chdir(self.folder)
        sys.stdout.flush()
        os.execv(java, [*base, "kafka.Kafka", "server.properties"])  # noqa: S606 - no shell, our own arguments

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it as a child of this process and wait until it serves; for tests and benches."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "broker.log").open("ab") as out:
            begin = out.tell()
            root = str(Path(__file__).resolve().parents[2])
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self.command(),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**self._environ, "PYTHONPATH": root},
            )
        deadline = time.monotonic() + timeout_s
        while True:
            if self._process.poll() is not None:
                raise self._why_it_ended(begin)
            if self._holder() == self._process.pid:
                with contextlib.suppress(LogUnavailable):
                    wait_ready(self.bootstrap, 0.5)
                    return
            else:
                time.sleep(0.05)
            if time.monotonic() > deadline:
                self.kill()
                raise LogUnavailable(f"Kafka did not serve within {timeout_s:.0f} s; see {self.folder / 'broker.log'}.")

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it in good order, by force after `timeout_s`."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _jars(self, progress: Progress) -> list[Path]:
        if ":" in str(self.cache):
            raise Stop(f"The cache folder {self.cache} has a colon in its name, which Java's class path cannot hold.")
        return fetch_jars(self.cache / f"kafka-{VERSION}", jar_list(), progress)

    def _lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(lock, True)  # stays with the Java process, and is let go of with it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise AlreadyRunning(
                f"A Kafka broker runs on {self.folder} already; `observator down` ends it, or choose another folder "
                "with --home."
            ) from None
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())

    def _holder(self) -> int | None:
        try:
            return int((self.folder / "lock").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _check_disk(self) -> None:
        if shutil.disk_usage(self.folder).free < LOWEST_FREE_BYTES:
            raise self._disk_full()

    def _disk_full(self) -> Stop:
        return Stop(
            f"The disk that holds {self.folder} is full (Kafka needs at least {LOWEST_FREE_BYTES >> 20} MB to start). "
            "Free some space or move the run folder (setting `home`); what was acknowledged is still there."
        )

    def _write_settings(self) -> None:
        ports = {"broker": claim_port(self.home, "kafka"), "controller": claim_port(self.home, "kafka-controller")}
        lines = _PROPERTIES.format(**ports) + "".join(f"{name}={value}\n" for name, value in self._extra.items())
        (self.folder / "server.properties").write_text(lines)
        shutil.copyfile(Path(__file__).parent / "kafka-log4j2.properties", self.folder / "log4j2.properties")

    def _format(self, java: list[str]) -> None:
        if (self.folder / "data" / "meta.properties").exists():
            return
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        named = f"--cluster-id={name}"  # one word: one name in 64 begins with a dash, and would be read as an option
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", named, "-c", "server.properties"]
        done = subprocess.run(  # noqa: S603 - our own command
            [*java, *tool], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Stop(f"Kafka's data folder could not be made: {(done.stderr or done.stdout).strip()[-500:]}")

    def _why_it_ended(self, begin: int) -> ObservatorError:
        with (self.folder / "broker.log").open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace")
        code, self._process = (self._process.returncode if self._process else 0), None
        if code == EXIT_ALREADY_RUNNING:
            return AlreadyRunning(text.strip())
        return Stop(f"Kafka ended at once (code {code}): {text.strip()[-800:]}")


def wait_ready(bootstrap: str, timeout_s: float) -> None:
    """Wait until the broker answers Metadata and every partition's leader serves; raises `LogUnavailable`.

    Asked with a consumer: an admin request that times out in an outage can end the process (librdkafka 2.16.0).
    """
    deadline = time.monotonic() + timeout_s
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": "readiness",
        "log_level": 0,
        "reconnect.backoff.max.ms": 250,
    }
    asker = Consumer(settings)
    problem: object = "no answer"
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                topics = asker.list_topics(timeout=max(0.1, min(left, 2.0))).topics
                for name, topic in topics.items():
                    for partition in topic.partitions:
                        asker.get_watermark_offsets(TopicPartition(name, partition), timeout=2.0)
            except KafkaException as error:
                problem = error.args[0]
                time.sleep(0.05)
            else:
                return
    finally:
        asker.close()
    raise LogUnavailable(f"Kafka at {bootstrap} does not serve ({problem}).")


def main(arguments: list[str]) -> int:
    """Become the broker of `--home`; for the supervisor's command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.servers.kafka")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--heap-mb", type=int, default=512)
    parser.add_argument("--property", action="append", default=[], help="one more line of server.properties")
    options = parser.parse_args(arguments)
    extra = dict(line.split("=", 1) for line in options.property)
    cache = options.cache or default_cache(os.environ)
    try:
        KafkaServer(options.home, cache, heap_mb=options.heap_mb, extra=extra).run_foreground()
    except AlreadyRunning as error:
        print(error, flush=True)
        return EXIT_ALREADY_RUNNING
    except ObservatorError as error:
        print(error, flush=True)
        return EXIT_STOP
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
