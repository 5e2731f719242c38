"""The real broker: started, killed, restarted, disturbed. Slow parts share one broker, in the order of the file."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.errors import AlreadyRunning, LogUnavailable, Stop, Unsupported
from infra.kafka import KafkaLog
from infra.log import Slot, TopicSpec
from infra.servers import jars as jars_module
from infra.servers import java as java_module
from infra.servers import kafka as kafka_module
from infra.servers.broker import kept_log, listens
from infra.servers.jars import FetchFailed, Jar, default_cache, fetch_jars, is_good, jar_list
from infra.servers.java import candidates, find_java, version_of
from infra.servers.kafka import KafkaServer, wait_ready
from infra.servers.ports import claim_port, is_free, kept_ports, port_of
from infra.settings import Settings


def test_a_port_is_chosen_once_per_name_and_kept(tmp_path: Path) -> None:
    first = port_of(tmp_path, "kafka")
    assert first == port_of(tmp_path, "kafka") == kept_ports(tmp_path)["kafka"]
    assert port_of(tmp_path, "sandbox") != first
    assert port_of(tmp_path / "other", "kafka") > 0
    assert kept_ports(tmp_path / "none") == {}


def test_a_port_taken_by_a_stranger_is_chosen_anew(tmp_path: Path) -> None:
    port = port_of(tmp_path, "kafka")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        assert not is_free(port)
        other = claim_port(tmp_path, "kafka", patience_s=0.2)
    assert other != port
    assert port_of(tmp_path, "kafka") == other == claim_port(tmp_path, "kafka")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kafka": "x", "web": 70000}'])
def test_a_damaged_port_file_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports.json").write_text(text)
    port = port_of(tmp_path, "kafka")
    assert json.loads((tmp_path / "ports.json").read_text())["kafka"] == port


def test_ports_come_from_the_kernel_where_our_range_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.servers.ports._first_outgoing_port", lambda: 1024)
    assert is_free(port_of(tmp_path, "kafka"))


def test_the_list_of_jars_is_whole_and_of_one_version() -> None:
    jars = jar_list()
    assert len(jars) == len({jar.file_name for jar in jars}) == 46
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {kafka_module.VERSION}
    assert sum(jar.size for jar in jars) == 45_035_715


def _jar(content: bytes, name: str = "thing") -> Jar:
    return Jar("org.example", name, "1", hashlib.sha256(content).hexdigest(), len(content))


def test_a_jar_counts_only_with_our_checksum(tmp_path: Path) -> None:
    answers = [b"cut of", b"other!", b"wanted"]

    def resolve(_jar: Jar, scratch: Path) -> Path:
        (scratch / "x").write_bytes(answers.pop(0))
        return scratch / "x"

    steps: list[tuple[str, int, int]] = []
    jar = _jar(b"wanted")
    paths = fetch_jars(tmp_path, [jar], lambda *step: steps.append(step), resolve)
    assert [path.read_bytes() for path in paths] == [b"wanted"]
    assert steps == [("fetching Kafka", 0, 6), ("fetching Kafka", 6, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "thing-1.jar"]

    paths[0].write_bytes(b"rotten")  # damaged on the disk later: noticed and fetched again
    answers.append(b"wanted")
    fetch_jars(tmp_path, [jar], lambda *_: None, resolve)
    assert is_good(paths[0], jar)


def test_a_registry_that_does_not_answer_is_named(tmp_path: Path) -> None:
    calls = []

    def resolve(jar: Jar, _scratch: Path) -> Path:
        calls.append(jar)
        raise ConnectionError("no route")

    with pytest.raises(FetchFailed, match=r"org\.example:thing:1 .*no route.*run the same command again"):
        fetch_jars(tmp_path, [_jar(b"a")], lambda *_: None, resolve)
    assert len(calls) == jars_module.TRIES


def test_the_cache_folder_follows_the_environment() -> None:
    assert default_cache({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/observator")
    assert default_cache({"HOME": "/h"}) == Path("/h/.cache/observator")


def test_a_java_that_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def java(name: str, script: str) -> Path:
        file = tmp_path / name / "bin" / "java"
        file.parent.mkdir(parents=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    java("broken", "exit 127")
    old = java("old", """echo 'openjdk version "1.8.0_392"' >&2""")
    new = java("new", """echo 'openjdk version "21.0.1"' >&2""")
    assert version_of(old) == 8
    monkeypatch.setattr(java_module.importlib.util, "find_spec", lambda _name: None)
    assert find_java({"JAVA_HOME": str(tmp_path / "broken"), "PATH": str(new.parent)}) == new
    with pytest.raises(Unsupported, match="make setup"):
        find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": str(tmp_path / "nothing")})
    assert list(candidates({"PATH": ""})) == []


def test_a_full_disk_is_said_before_the_broker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_module, "LOWEST_FREE_BYTES", 2**60)
    with pytest.raises(Stop, match=r"disk that holds .* is full"):
        KafkaServer(tmp_path, default_cache(os.environ)).run_foreground()


def test_a_cache_folder_java_cannot_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="colon"):
        KafkaServer(tmp_path, tmp_path / "a:b").prepare()


def test_waiting_for_a_broker_that_is_not_there_ends(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(LogUnavailable, match="does not serve"):
        wait_ready(f"127.0.0.1:{port_of(tmp_path, 'kafka')}", 0.5)
    assert time.monotonic() - begin < 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path_factory.mktemp("run folder, with comma"), default_cache(os.environ))
    try:
        server.prepare()
    except (FetchFailed, Unsupported) as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:  # one cluster name in 64 begins with a dash: an option to the tool
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xf8" * 16))
        server.start()
    yield server
    server.stop()


def _publish(bootstrap: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0, "linger.ms": 0})
    for number in range(count):
        producer.produce("kept", str(number), partition=0)
    assert producer.flush(30) == 0


def _read(bootstrap: str, count: int) -> list[str]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "g", "enable.auto.commit": False, "log_level": 0},
    )
    consumer.assign([TopicPartition("kept", 0, 0)])
    values: list[str] = []
    deadline = time.monotonic() + 20
    while len(values) < count and time.monotonic() < deadline:
        record = consumer.poll(0.5)
        if record is not None and record.error() is None:
            values.append((record.value() or b"").decode())
    consumer.close()
    return values


@pytest.mark.kafka
@pytest.mark.slow
def test_acknowledged_records_outlive_kill_and_stop_on_the_same_port(server: KafkaServer) -> None:
    bootstrap = server.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("kept", 3, 1)])["kept"].result(10)
    wait_ready(bootstrap, 10)
    _publish(bootstrap, 100)
    server.kill()
    assert server.pid is None
    server.start()
    assert server.bootstrap == bootstrap
    assert _read(bootstrap, 100) == [str(number) for number in range(100)]
    server.stop()
    (server.folder / "lock").write_text("1")  # a process id from before a reboot that now belongs to somebody else
    server.start()
    assert _read(bootstrap, 100) == [str(number) for number in range(100)]


@pytest.mark.kafka
@pytest.mark.slow
def test_a_second_broker_on_the_same_folder_is_refused(server: KafkaServer) -> None:
    second = KafkaServer(server.home, server.cache)
    with pytest.raises(AlreadyRunning, match=r"runs on .* already"):
        second.start()
    done = subprocess.run(second.command(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == kafka_module.EXIT_ALREADY_RUNNING
    assert "already" in done.stdout
    assert server.pid is not None
    wait_ready(server.bootstrap, 5)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_broker_whose_port_was_taken_moves(server: KafkaServer) -> None:
    before = server.bootstrap
    server.stop()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", int(before.split(":")[1])))
        stranger.listen()
        server.start()
    assert server.bootstrap != before
    assert _read(server.bootstrap, 100) == [str(number) for number in range(100)]


@pytest.mark.kafka
@pytest.mark.slow
def test_a_folder_that_cannot_be_used_ends_with_the_reason(server: KafkaServer, tmp_path: Path) -> None:
    broken = KafkaServer(tmp_path, server.cache, extra={"log.dirs": "/proc/no/such"})
    with pytest.raises(Stop, match=r"code 2.*data folder could not be made"):
        broken.start()
    broken.stop()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a small disk")
def test_a_disk_that_fills_up_is_told_and_the_records_stay(server: KafkaServer, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        small = KafkaServer(disk, server.cache)
        small.start()
        admin = AdminClient({"bootstrap.servers": small.bootstrap, "log_level": 0})
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(10)
        _publish(small.bootstrap, 100)
        small.stop()
        (disk / "filler").write_bytes(bytes(200 * 2**20))
        with pytest.raises(Stop, match=r"is full .*what was acknowledged is still there"):
            small.start()
        (disk / "filler").unlink()
        small.start()
        assert _read(small.bootstrap, 100) == [str(number) for number in range(100)]
        small.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_the_module_says_what_it_cannot_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infra.servers.kafka", f"--home={tmp_path}", f"--cache={tmp_path}/a:b"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == kafka_module.EXIT_STOP
    assert "colon" in done.stdout


def test_a_folder_without_records_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="--home"), kept_log(Settings(home=tmp_path), print):
        pass
    assert not (tmp_path / "kafka").exists()
    away = Settings(home=tmp_path, kafka={"bootstrap": f"127.0.0.1:{port_of(tmp_path, 'kafka')}"})  # type: ignore[arg-type]  # as a file gives it
    with pytest.raises(LogUnavailable, match="Nobody answers"), kept_log(away, print):
        pass


@pytest.mark.kafka
def test_what_a_stopped_broker_kept_is_read_and_it_is_stopped_again(breakable_broker: KafkaServer) -> None:
    said: list[str] = []
    settings, slot = Settings(home=breakable_broker.home), Slot("kept", 0)
    with kept_log(settings, said.append) as log:
        log.create_topics([TopicSpec("kept", 1, {})])
        publisher = log.publisher()
        publisher.publish("kept", "key", b"{}")
        publisher.close()
    assert not said
    assert listens(breakable_broker.bootstrap)
    breakable_broker.stop()
    try:
        with kept_log(settings, said.append) as log:
            assert isinstance(log, KafkaLog)
            assert log.bounds([slot]) == {slot: (0, 1)}
        assert len(said) == 1
        assert not listens(breakable_broker.bootstrap)
    finally:
        breakable_broker.start()
