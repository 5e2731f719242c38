"""The API as a process and over real sockets: who may ask, what it does, and what it says when it does not."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import observator
from consumers.execute.halts import HaltGate
from consumers.execute.halts_file import HaltFolder
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.interference_verbs import text_of
from consumers.execute.journal import Journal
from consumers.trade.state import Account, encode
from dashboard.api_gate import keep_token
from dashboard.api_words import language_of
from infra.errors import Stop
from infra.kafka import KafkaLog
from infra.log import Slot, TopicSpec
from infra.servers.kafka import KafkaServer
from infra.servers.ports import kept_ports
from infra.settings import Settings
from streams import messages as m
from streams import topics

NOBODY = "127.0.0.1:1"


class Client:
    """Asks the API of a run folder; every part of a request can be made wrong."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def port(self) -> int:
        return kept_ports(self.home)["api"]

    def ask(
        self, method: str, path: str, body: object = None, raw: bytes | None = None, **changes: str | None
    ) -> tuple[int, Any]:
        token = (self.home / "run" / "secrets" / "api-token").read_text()
        headers: dict[str, str | None] = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = raw if raw is not None else None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {k: v for k, v in headers.items() if v is not None})
            answer = connection.getresponse()
            text = answer.read()
            assert token.encode() not in text
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def error(self, *arguments: Any, **changes: Any) -> tuple[int, str]:
        status, found = self.ask(*arguments, **changes)
        assert set(found) == {"error"}
        assert set(found["error"]) == {"name", "message"}
        return status, found["error"]["name"]


def until(is_so: Callable[[], object], seconds: float = 30.0) -> None:
    end_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def answers(client: Client) -> bool:
    try:
        return client.ask("GET", "/health")[0] == 200
    except (OSError, KeyError):
        return False


@contextmanager
def serving(home: Path, bootstrap: str, prefix: str = "") -> Iterator[Client]:
    settings = Settings.model_validate({"home": home, "kafka": {"bootstrap": bootstrap, "prefix": prefix}})
    stop = threading.Event()
    thread = threading.Thread(target=observator.api, args=(settings, stop))
    thread.start()
    client = Client(home)
    try:
        until(lambda: answers(client))
        yield client
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Without Kafka and without an executor."""
    with serving(tmp_path, NOBODY) as client:
        yield client


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[HaltGate]:
    """The executor's side of the kill switches, with its thread and its database."""
    gate, stop = HaltGate(), threading.Event()
    keeper, journal = HaltKeeper(tmp_path, gate), Journal(tmp_path / "execution.sqlite")
    keeper.attach(journal)
    thread = threading.Thread(target=keeper.watch, args=(stop,))
    thread.start()
    yield gate
    stop.set()
    thread.join(30)
    keeper.close()
    journal.close()


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_nobody_asks_without_the_token_but_for_health(client: Client) -> None:
    token = (client.home / "run" / "secrets" / "api-token").read_text()
    assert client.ask("GET", "/health", Authorization=None) == (200, {"ok": True})
    for given in (None, "", "Bearer", "Bearer ", f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", token):
        for method, path in (("GET", "/halts"), ("GET", "/nowhere"), ("POST", "/halts"), ("POST", "/health")):
            assert client.error(method, path, {}, Authorization=given) == (401, "no-token")
    assert client.ask("POST", "/halts", {"account": "*", "kind": "sell-all"}, Authorization="Bearer ü")[0] == 401
    assert HaltFolder(client.home).commands() == []
    assert client.ask("GET", "/halts")[0] == 200


def test_another_name_for_this_machine_is_refused(client: Client) -> None:
    for host in ("evil.example", f"evil.example:{client.port}", "127.0.0.1", f"127.0.0.1:{client.port + 1}", ""):
        assert client.error("GET", "/health", Host=host) == (421, "wrong-host")
        assert client.error("POST", "/halts", {"account": "*", "kind": "sell-all"}, Host=host)[0] == 421
    assert client.ask("GET", "/halts", Host=f"LOCALHOST:{client.port}")[0] == 200
    assert HaltFolder(client.home).commands() == []


def test_a_form_of_another_page_cannot_post_and_nothing_large_is_read(client: Client) -> None:
    body = {"account": "*", "kind": "sell-all"}
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        assert client.error("POST", "/halts", body, Content_Type=kind) == (415, "not-json")
    assert client.error("OPTIONS", "/halts", Origin="https://evil.example") == (405, "wrong-method")
    assert client.error("POST", "/halts", raw=b" " * 5000) == (413, "too-large")
    chunked = {"Transfer_Encoding": "chunked", "raw": b"2\r\n{}\r\n0\r\n\r\n"}
    assert client.error("POST", "/halts", **chunked) == (411, "no-length")
    assert HaltFolder(client.home).commands() == []


def test_nonsense_bodies_are_refused_with_their_fields(client: Client) -> None:
    good = {"account": "a", "kind": "no-new-orders"}
    wrong: list[tuple[object, str]] = [
        ({}, "body.account, body.kind"),
        ([], "body"),
        (None, "body"),
        (good | {"kind": "lifted"}, "body.kind"),
        (good | {"account": "../a"}, "body.account"),
        (good | {"account": 7}, "body.account"),
        (good | {"timeout_s": 1e9}, "body.timeout_s"),
        (good | {"timeout_s": "1"}, "body.timeout_s"),
        (good | {"more": 1}, "body.more"),
    ]
    for body, fields in wrong:
        status, found = client.ask("POST", "/halts", raw=json.dumps(body).encode())
        assert (status, found["error"]["name"]) == (422, "bad-body"), body
        assert found["error"]["message"].endswith(f"unknown: {fields}."), (body, found)
    for raw in (b"", b"{", b"\xff\xfe", b"[" * 4000, b'{"account":"a","kind":"sell-all","timeout_s":NaN}'):
        assert client.error("POST", "/halts", raw=raw)[1] == "bad-body", raw[:10]
    assert client.error("POST", "/accounts/..%2fa/resume", {"confirm": "a"})[0] in {404, 422}
    assert client.error("GET", "/nowhere") == (404, "not-found")
    assert client.error("DELETE", "/halts") == (405, "wrong-method")
    assert client.ask("GET", "/docs")[0] == client.ask("GET", "/openapi.json")[0] == 404
    assert HaltFolder(client.home).commands() == []


def test_refusals_are_told_in_the_language_that_was_asked_for(client: Client) -> None:
    korean = client.ask("GET", "/nowhere", Accept_Language="ko-KR,ko;q=0.9,en;q=0.8")[1]["error"]["message"]
    assert "아무것도" in korean
    assert client.ask("GET", "/nowhere", Accept_Language="en, ko;q=0.5")[1]["error"]["message"].startswith("There is")
    assert [language_of(one) for one in ("", "fr", "ko;q=x", "ko", "ko;q=0.1, en;q=0.2")] == [
        "en",
        "en",
        "en",
        "ko",
        "en",
    ]


def test_the_token_is_made_once_and_refused_where_others_can_read_it(tmp_path: Path) -> None:
    token = keep_token(tmp_path)
    file = tmp_path / "run" / "secrets" / "api-token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert keep_token(tmp_path) == token
    assert token.reveal() not in repr(token)
    file.chmod(0o640)
    with pytest.raises(Stop, match="remove it"):
        keep_token(tmp_path)
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(Stop, match="damaged"):
        keep_token(tmp_path)


# --- halts ------------------------------------------------------------------------------------------------------------


def test_a_halt_is_written_without_kafka_and_without_an_executor(client: Client) -> None:
    status, found = client.ask("POST", "/halts", {"account": "a", "kind": "sell-all"}, Accept_Language="ko")
    assert (status, found["state"], found["told"]) == (202, "written", False)
    assert any("Kafka" in line for line in found["sentences"])
    (command,) = HaltFolder(client.home).commands()
    assert (command.halt.account, command.halt.kind, command.halt.by, command.is_told) == (
        "a",
        "sell-all",
        "api",
        False,
    )
    found = client.ask("GET", "/halts")[1]
    assert (found["executor_runs"], found["damage"]) == (False, "")
    assert [(one["account"], one["state"], one["by"]) for one in found["halts"]] == [("a", "written", "api")]
    (client.home / "run" / "halts" / "commands.json").write_text("{")
    assert client.ask("GET", "/halts")[1]["damage"]
    assert client.error("GET", "/accounts") == (503, "log-away")
    assert client.error("POST", "/accounts/a/resume", {"confirm": "a"}) == (503, "log-away")


def test_an_executor_closes_its_gate_and_only_a_deliberate_word_lifts(client: Client, executor: HaltGate) -> None:
    status, found = client.ask("POST", "/halts", {"account": "*", "kind": "no-new-orders"})
    assert (status, found["state"]) == (200, "closed")
    assert executor.halt_of("anybody") == "no-new-orders"
    assert client.ask("GET", "/halts")[1]["halts"][0]["state"] == "closed"
    assert client.error("POST", "/halts/lift", {"account": "*"}) == (422, "bad-body")
    for typed in ("", "*", "yes", "paper"):
        assert client.error("POST", "/halts/lift", {"account": "*", "confirm": typed}) == (409, "refused")
    korean = client.ask("POST", "/halts/lift", {"account": "*", "confirm": "yes"}, Accept_Language="ko")[1]
    assert "해제하지 않았습니다" in korean["error"]["message"]
    assert executor.halt_of("anybody")
    status, found = client.ask("POST", "/halts/lift", {"account": "*", "confirm": "all"})
    assert (status, found["state"], found["still"]) == (200, "lifted", {})
    assert not executor.halt_of("anybody")
    assert client.ask("POST", "/halts/lift", {"account": "a", "confirm": "x"})[1]["state"] == "not-halted"


# --- with the log -----------------------------------------------------------------------------------------------------


def settings_of(account: str) -> m.AccountSettings:
    return m.AccountSettings(
        account=account, pocket=f"p-{account}", venue="paper", is_trading=True, budget=Decimal(1000),
        entry_funds=Decimal(100), threshold_percent=Decimal(0), fee_percent=Decimal(0), stop_percent=Decimal(1),
        hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
    )  # fmt: skip


def controls(log: KafkaLog) -> list[Any]:
    end = log.bounds([Slot("controls", 0)])[Slot("controls", 0)][1]
    reader = log.reader({Slot("controls", 0): 0})
    found: list[Any] = []
    while len(found) < end:
        found += [topics.decode("controls", record.value) for record in reader.read(10, 1.0)]
    reader.close()
    return found


@pytest.mark.kafka
def test_halts_and_resumed_accounts_go_into_the_log(tmp_path: Path, broker: KafkaServer, kafka_log: KafkaLog) -> None:
    kafka_log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    publisher = kafka_log.publisher(linger_ms=0)
    for name, paused in (("a", "coins-moved"), ("b", "")):
        state = msgspec.Raw(encode(Account(settings=settings_of(name), is_trading=True, paused=paused)))
        publisher.publish(
            "account-states", name, m.encode(m.AccountState(account=name, state=state, cursor={}, event_ms=1))
        )
    publisher.flush()
    publisher.close()
    with serving(tmp_path, broker.bootstrap, kafka_log.prefix) as client:
        rows = client.ask("GET", "/accounts", Accept_Language="ko")[1]["accounts"]
        assert [(row["account"], row["paused"]) for row in rows] == [("a", text_of("coins-moved", "ko")), ("b", "")]
        assert client.ask("POST", "/halts", {"account": "b", "kind": "no-new-orders"})[1]["told"] is True
        assert [one.is_told for one in HaltFolder(tmp_path).commands()] == [True]
        for account, confirm in (("a", "b"), ("b", "b"), ("z", "z")):
            assert client.error("POST", f"/accounts/{account}/resume", {"confirm": confirm}) == (409, "refused")
        assert client.ask("POST", "/accounts/a/resume", {"confirm": "a"}) == (
            200,
            {"account": "a", "was_paused_for": "coins-moved", "by": "api"},
        )
    halted, resumed = controls(kafka_log)
    assert (halted.account, halted.kind, halted.by) == ("b", "no-new-orders", "api")
    assert (type(resumed), resumed.account) == (m.AccountResumed, "a")


# --- the process ------------------------------------------------------------------------------------------------------


def test_the_process_serves_ends_when_told_and_never_writes_its_token(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OBSERVATOR_")}
    environ |= {"OBSERVATOR_HOME": str(tmp_path), "OBSERVATOR_KAFKA__BOOTSTRAP": NOBODY}
    client = Client(tmp_path)
    with (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-P", "-m", "observator", "process", "api"]
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=out, cwd=Path(observator.__file__).parent)
        try:
            until(lambda: answers(client), 60)
            assert client.ask("GET", "/halts", raw=b"")[0] == 200
            assert client.ask("POST", "/halts", {"account": "*", "kind": "no-new-orders"})[0] == 202
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    token = (tmp_path / "run" / "secrets" / "api-token").read_text()
    assert token not in (tmp_path / "out").read_text()
    assert "Traceback" not in (tmp_path / "out").read_text()


def test_a_port_in_use_is_said(tmp_path: Path, client: Client) -> None:
    settings = Settings.model_validate({"home": tmp_path / "other", "dashboard": {"api_port": client.port}})
    with pytest.raises(Stop, match="api_port"):
        observator.api(settings, threading.Event())
