"""Faults, control interface, and what survives a kill."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from infra.errors import AlreadyRunning, BadSettings
from infra.servers.ports import kept_ports
from infra.settings import Settings
from infra.upbit import signing
from producers.sandbox import exchange
from producers.sandbox.journal import Journal
from producers.sandbox.server import run
from producers.sandbox.thread import SandboxThread

from .conftest import SMALL, connect, receive
from .test_sandbox_orders import call, ended, error_of, limit, until


@pytest.fixture(autouse=True)
def _no_fault_left(request: pytest.FixtureRequest) -> Any:
    yield
    if "sandbox" in request.fixturenames:
        request.getfixturevalue("sandbox").clear_faults()


def known(sandbox: SandboxThread, identifier: str) -> bool:
    return identifier in {row["identifier"] for row in sandbox.truth()}


def test_a_lost_answer_leaves_the_order(sandbox: SandboxThread) -> None:
    sandbox.fault("lost-answer")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError, urllib.error.URLError)):
        call(sandbox, "POST", "/v1/orders", limit(identifier="lost-answer"))
    assert known(sandbox, "lost-answer")
    assert call(sandbox, "GET", "/v1/order", query="identifier=lost-answer")[0] == 200
    assert sandbox.control("GET", "/sandbox/faults")["faults"][0]["drawn"] == 1


def test_a_lost_request_leaves_nothing(sandbox: SandboxThread) -> None:
    sandbox.fault("lost-request")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError, urllib.error.URLError)):
        call(sandbox, "POST", "/v1/orders", limit(identifier="lost-request"))
    assert not known(sandbox, "lost-request")
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="lost-request"))[0] == 201


def test_a_late_answer_comes_late(sandbox: SandboxThread) -> None:
    sandbox.fault("late-answer", seconds=0.3)
    started = time.monotonic()
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="late-answer"))[0] == 201
    assert time.monotonic() - started > 0.3


def test_a_late_request_is_done_though_the_client_has_gone(sandbox: SandboxThread) -> None:
    sandbox.fault("late-request", seconds=0.6)
    body = json.dumps(limit(identifier="late-request")).encode()
    token = signing.sign(sandbox.access_key, sandbox.secret_key, signing.query_of(limit(identifier="late-request")))
    with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
        head = f"POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        time.sleep(0.1)
    assert not known(sandbox, "late-request")
    assert error_of(call(sandbox, "GET", "/v1/order", query="identifier=late-request")) == (404, "order_not_found")
    until(lambda: known(sandbox, "late-request"))


@pytest.mark.parametrize(("burn", "again"), [(True, 400), (False, 201), (None, 400)])
def test_a_forced_refusal_burns_as_told(sandbox: SandboxThread, *, burn: bool | None, again: int) -> None:
    identifier = f"refused-{burn}"
    sandbox.fault("refused", error="insufficient_funds_bid", burn=burn)
    refused = call(sandbox, "POST", "/v1/orders", limit(identifier=identifier))
    assert error_of(refused) == (400, "insufficient_funds_bid")
    assert call(sandbox, "POST", "/v1/orders", limit(identifier=identifier))[0] == again
    row = sandbox.control("GET", "/sandbox/truth")["refused"][-1]
    assert (row["identifier"], row["is_burned"]) == (identifier, burn is not False)


def test_errors_on_demand(sandbox: SandboxThread) -> None:
    sandbox.fault("server-error")
    assert error_of(call(sandbox, "POST", "/v1/orders", limit(identifier="e-1"))) == (500, "server_error")
    assert not known(sandbox, "e-1")
    sandbox.fault("server-error", is_done=True)
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="e-2"))[0] == 500
    assert known(sandbox, "e-2")
    sandbox.fault("rate-limited", path="*", method="*")
    request = urllib.request.Request(sandbox.url + "/v1/accounts")
    with pytest.raises(urllib.error.HTTPError, match="429") as caught:
        urllib.request.urlopen(request, timeout=5)
    caught.value.close()


def test_a_look_up_can_lag(sandbox: SandboxThread) -> None:
    sandbox.fault("get-lag", seconds=0.4)
    assert call(sandbox, "POST", "/v1/orders", limit(identifier="lag"))[0] == 201
    assert call(sandbox, "GET", "/v1/order", query="identifier=lag")[0] == 404
    assert "lag" not in {row.get("identifier") for row in call(sandbox, "GET", "/v1/orders/open")[1]}
    assert error_of(call(sandbox, "POST", "/v1/orders", limit(identifier="lag"))) == (400, "duplicated_identifier")
    until(lambda: call(sandbox, "GET", "/v1/order", query="identifier=lag")[0] == 200)


def test_nonsense_on_the_control_interface_is_refused(sandbox: SandboxThread) -> None:
    for path, body in [
        ("/sandbox/faults", {"name": "nope"}),
        ("/sandbox/faults", {"name": "refused", "burn": "yes"}),
        ("/sandbox/faults", {"name": "refused", "what": 1}),
        ("/sandbox/faults", {"name": "refused", "probability": 2}),
        ("/sandbox/faults", {"name": "refused", "count": True}),
        ("/sandbox/faults", {"name": "refused", "seconds": True}),
        ("/sandbox/faults", {"name": "refused", "count": 0}),
        ("/sandbox/switches", {"burn_refused_identifiers": 1}),
        ("/sandbox/accounts", {"access_key": "../x"}),
        ("/sandbox/accounts", {"access_key": "x", "balances": {"won": "1"}}),
        ("/sandbox/accounts", {"access_key": "x", "balances": {"KRW": "-1"}}),
        ("/sandbox/accounts", {"access_key": "x", "balances": {"KRW": "many"}}),
    ]:
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            sandbox.control("POST", path, body)
        caught.value.close()
    request = urllib.request.Request(sandbox.url + "/sandbox/truth", headers={"Authorization": "Bearer wrong"})
    with pytest.raises(urllib.error.HTTPError, match="401") as caught:
        urllib.request.urlopen(request, timeout=5)
    caught.value.close()


# --- the journal ------------------------------------------------------------------------------------------------------

SERVER = """
import sys, threading
from pathlib import Path
from infra.settings import Settings
from producers.sandbox.server import run
run(Settings(home=Path(sys.argv[1]), feed={"market_count": 2, "warmup_seconds": 2}), threading.Event())
"""


class Process:
    """The real server in its own process, so that it can be killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process = subprocess.Popen([sys.executable, "-c", SERVER, str(home)])
        self.access_key = "paper-main"
        until(self._answers, 60)
        self.secret_key = (home / "run" / "secrets" / "paper-main").read_text()

    def _answers(self) -> bool:
        try:
            self.port = json.loads((self.home / "ports.json").read_text())["sandbox"]
            self.url = f"http://127.0.0.1:{self.port}"
            with urllib.request.urlopen(self.url + "/sandbox/status", timeout=5) as answer:
                return bool(json.loads(answer.read())["synthetic"])
        except (OSError, KeyError, ValueError):
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def test_orders_balances_and_identifiers_survive_kill_9(tmp_path: Path) -> None:
    first: Any = Process(tmp_path)
    client = connect(f"ws://127.0.0.1:{first.port}/websocket/v1", {"type": "orderbook", "codes": ["KRW-BTC"]})
    receive(client)
    _, resting, _ = call(first, "POST", "/v1/orders", limit(identifier="resting"))
    _, bought, _ = call(
        first, "POST", "/v1/orders", {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "price"}
    )
    bought = ended(first, bought["uuid"])
    _, before, _ = call(first, "GET", "/v1/accounts")
    call(first, "POST", "/v1/orders", limit("10000500", identifier="burned"))
    first.kill()
    client.shutdown()
    with (tmp_path / "db" / "sandbox.journal").open("ab") as journal:
        journal.write(b'{"e":"order","uuid"')  # cut off in the middle of a write

    second: Any = Process(tmp_path)
    try:
        assert second.port == first.port
        assert call(second, "GET", "/v1/accounts")[1] == before
        assert ended(second, bought["uuid"]) == bought
        assert call(second, "GET", "/v1/order", query="identifier=resting")[1]["state"] == "wait"
        for identifier in ("resting", "burned"):
            again = call(second, "POST", "/v1/orders", limit(identifier=identifier))
            assert error_of(again) == (400, "duplicated_identifier")
        call(second, "DELETE", "/v1/order", query=f"uuid={resting['uuid']}")
        assert ended(second, resting["uuid"])["state"] == "cancel"
    finally:
        second.process.send_signal(signal.SIGKILL)
        second.process.wait(10)


def test_a_second_sandbox_beside_the_first_is_refused(tmp_path: Path, sandbox: SandboxThread) -> None:
    with pytest.raises(AlreadyRunning, match="holds"), SandboxThread(sandbox.configuration.home, plan=SMALL):
        pass
    with pytest.raises(AlreadyRunning, match="in use"), SandboxThread(tmp_path, plan=SMALL, port=sandbox.port):
        pass


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"e":"account","a":"x"}\nnonsense\n{"e":"account","a":"y"}\n')
    journal = Journal(path)
    with pytest.raises(BadSettings, match="line 2"):
        list(journal.entries())
    journal.close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal")
    assert list(journal.entries()) == []
    journal.append({"e": "account", "a": "x"})

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append({"e": "account", "a": "y"})
    journal.append({"e": "account", "a": "z"})
    assert [entry["a"] for entry in journal.entries()] == ["x", "z"]
    journal.close()


def test_a_new_start_in_the_same_folder_goes_on(tmp_path: Path) -> None:
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=1, fill_delay_ms=2000) as first:
        body = {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "price", "identifier": "unmatched"}
        assert call(first, "POST", "/v1/orders", body)[0] == 201
        _, order, _ = call(first, "POST", "/v1/orders", limit(identifier="cancelling"))
        assert call(first, "POST", "/v1/orders", limit("1", identifier="burned"))[0] == 400
        call(first, "DELETE", "/v1/order", query=f"uuid={order['uuid']}")
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=1) as second:
        _, unmatched, _ = call(second, "GET", "/v1/order", query="identifier=unmatched")
        assert ended(second, unmatched["uuid"])["trades_count"] == 1
        assert ended(second, order["uuid"])["state"] == "cancel"
        again = call(second, "POST", "/v1/orders", limit(identifier="burned"))
        assert error_of(again) == (400, "duplicated_identifier")
        accounts = call(second, "GET", "/v1/accounts")[1]
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=1) as third:
        assert call(third, "GET", "/v1/accounts")[1] == accounts
        assert ended(third, unmatched["uuid"])["state"] == "cancel"


def test_a_full_disk_delays_orders_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_RETRY_SECONDS", 0.1)
    sync = os.fdatasync
    is_full = threading.Event()

    def maybe_full(file: int) -> None:
        if is_full.is_set():
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fdatasync", maybe_full)
    with SandboxThread(tmp_path, plan=SMALL, warmup_seconds=1, fill_delay_ms=100, cancel_delay_ms=200) as running:
        _, resting, _ = call(running, "POST", "/v1/orders", limit())
        call(running, "DELETE", "/v1/order", query=f"uuid={resting['uuid']}")
        body = {"market": "KRW-BTC", "side": "bid", "price": "10000", "ord_type": "price"}
        _, order, _ = call(running, "POST", "/v1/orders", body)
        is_full.set()
        assert error_of(call(running, "POST", "/v1/orders", limit(identifier="full"))) == (500, "server_error")
        time.sleep(0.5)
        assert {row["state"] for row in running.truth()} == {"wait"}
        is_full.clear()
        assert ended(running, order["uuid"])["trades_count"] == 1
        assert ended(running, resting["uuid"])["state"] == "cancel"
        assert call(running, "POST", "/v1/orders", limit(identifier="full"))[0] == 201


def test_a_sandbox_ends_when_told(tmp_path: Path) -> None:
    stop = threading.Event()
    settings = Settings(home=tmp_path, feed={"market_count": 1})
    thread = threading.Thread(target=run, args=(settings, stop))
    thread.start()
    port = until(lambda: kept_ports(tmp_path).get("sandbox"), 30)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/sandbox/clock", timeout=5) as answer:
                return "exchange_ms" in json.loads(answer.read())
        except OSError:
            return False

    until(answers, 30)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
