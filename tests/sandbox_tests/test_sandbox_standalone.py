import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from infra.configuration import load
from infra.errors import BadSettings
from infra.upbit.signing import query_of, sign
from producers.sandbox.standalone import overrides, run, told
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread

ROOT = Path(__file__).parents[2]
NOTHING = dict.fromkeys(
    ("market", "recording", "markets", "seed", "speed", "warmup_seconds", "port", "limits")
)  # fmt: skip


def start(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "observator", "sandbox", "--home", str(home), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_words(running: subprocess.Popen[str]) -> dict[str, Any]:
    assert running.stdout is not None
    return dict(json.loads(running.stdout.readline()))


def test_it_tells_the_way_in_once_and_ends_when_asked(tmp_path: Path):
    running = start(tmp_path, "--markets", "2", "--warmup", "1", "--json")
    try:
        found = first_words(running)
        with urllib.request.urlopen(found["status"], timeout=5) as answer:
            status = json.loads(answer.read())
        assert status["synthetic"] is True
        assert status["markets"] == 2
        assert set(found["environment"]) >= {"HTTPS_PROXY", "SSL_CERT_FILE"}
        assert Path(found["secret_key_file"]).stat().st_mode & 0o777 == 0o600
        second = start(tmp_path, "--json")
        _, problem = second.communicate(timeout=30)
        assert second.returncode == 1
        assert problem.count("\n") == 1, "one line, no traceback"
    finally:
        running.send_signal(signal.SIGINT)
        rest, problem = running.communicate(timeout=20)
    assert (running.returncode, rest, problem) == (0, "", "")


def test_a_market_begins_without_a_websocket(tmp_path: Path):
    with SandboxThread(tmp_path, plan=Plan(market_count=1), warmup_seconds=2, starts_at_once=True) as running:
        while not running.status()["is_warm"]:
            pass
        assert running.control("GET", "/v1/trades/ticks?market=KRW-BTC")


def test_options_become_settings_and_what_is_not_given_stays(tmp_path: Path):
    assert overrides(**NOTHING) == {"feed": {}, "sandbox": {}}
    given = overrides(**NOTHING | {"markets": "KRW-BTC,KRW-ETH", "seed": 3, "limits": "order=100,default=9", "port": 0})
    settings = load(None, {**given, "home": tmp_path})
    assert (settings.feed.markets, settings.feed.seed) == (["KRW-BTC", "KRW-ETH"], 3)
    assert settings.sandbox.limits == {"order": 100, "default": 9}
    assert overrides(**NOTHING | {"limits": "none", "markets": "12"}) == {
        "feed": {"market_count": 12}, "sandbox": {"is_limited": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"market": "recording"}, "Name one"),
        ({"recording": Path("/no/such/file")}, "does not exist"),
        ({"recording": Path(__file__), "market": "synthetic"}, "exclude"),
        ({"limits": "order"}, "neither"),
        ({"limits": "order=many"}, "neither"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], word: str):
    with pytest.raises(BadSettings, match=word):
        overrides(**NOTHING | given)


def test_a_market_that_is_followed_needs_a_log(tmp_path: Path):
    settings = load(None, overrides(**NOTHING | {"market": "follow"}) | {"home": tmp_path})
    with pytest.raises(BadSettings, match=r"kafka\.bootstrap"):
        run(settings, lambda: True, print)


def test_people_are_told_the_same():
    found = {
        "market": "synthetic", "rest": "http://127.0.0.1:1", "websocket": "ws://127.0.0.1:1/websocket/v1",
        "status": "s", "access_key": "paper-main", "secret_key_file": "f", "control_token_file": "c",
        "stands_in_for": ["api.upbit.com"], "environment": {"HTTPS_PROXY": "http://127.0.0.1:2"},
    }  # fmt: skip
    words = told(found)
    assert "Ctrl-C stops it" in words
    assert "export HTTPS_PROXY=http://127.0.0.1:2" in words
    assert "export" not in told({name: value for name, value in found.items() if name != "environment"})


def test_parameters_of_a_get_may_stand_in_a_form(tmp_path: Path):
    with SandboxThread(tmp_path, plan=Plan(market_count=1), warmup_seconds=0) as running:

        def ask(form: str, **headers: str) -> int:
            token = sign(running.access_key, running.secret_key, query_of({"market": "KRW-BTC"}))
            request = urllib.request.Request(f"{running.url}/v1/orders/chance", form.encode(), method="GET")
            for name, value in {"Authorization": token, **headers}.items():
                request.add_header(name.replace("_", "-"), value)
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        assert ask("market=KRW-BTC") == 200
        assert ask("market=KRW-ETH") == 401
        assert ask("market=KRW-BTC", Content_Type="application/json") == 400
        assert ask("\x00\xff") in {400, 401}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_it_listens_on_this_machine_alone_unless_told_otherwise(tmp_path: Path):
    running = start(tmp_path, "--markets", "1", "--warmup", "1", "--json")
    try:
        first_words(running)
        listening = [
            line.split()[1].split(":")[0]
            for line in Path(f"/proc/{running.pid}/net/tcp").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[9] in sockets_of(running.pid)
        ]
        assert listening == ["0100007F"] * 2
    finally:
        running.terminate()
        running.communicate(timeout=20)


def sockets_of(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found
