"""Independent clients, their code unchanged, against the sandbox exchange; what works stands in docs/sandbox.md.

They run in child processes in an environment of their own and reach the exchange by its own name: through the front,
with nothing but environment variables or the settings that they offer themselves.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
PROGRAMS = Path(__file__).parent / "programs"
CLIENTS = ("upbit-sdk", "pyupbit", "ccxt", "ccxt pro", "cryptofeed")
PAGE = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists() and not os.environ.get("CI"), reason="no clients here: `make setup-dev` brings them"
    ),
]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `observator sandbox --json` prints; it is ended as a person would end it."""
    home = tmp_path_factory.mktemp("exchange")
    command = [sys.executable, "-m", "observator", "sandbox", "--json", "--home", home, "--markets", "5"]
    with subprocess.Popen([*command, "--warmup", "120"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, "the sandbox did not start; its words stand above"
        yield json.loads(line)
        running.terminate()
        code = running.wait(20)
    assert code == 0


def environment(exchange: dict[str, Any]) -> dict[str, str]:
    secret = Path(exchange["secret_key_file"]).read_text().strip()
    dropped = ("PYTHON", "COV", "SSL_", "NO_PROXY", "no_proxy")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return inherited | exchange["environment"] | {"ACCESS_KEY": exchange["access_key"], "SECRET_KEY": secret}


def told(client: str) -> tuple[set[str], dict[str, str]]:
    """What the page says: the calls that work, and those that cannot with the reason."""
    section = PAGE.split("\n## Clients\n", 1)[1].split("\n## ", 1)[0]
    works, cannot = set(), {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 2 and cells[0].startswith(f"`{client}`"):
            works = set(re.findall(r"`([^`]+)`", cells[1]))
        elif len(cells) == 3 and cells[0] == f"`{client}`":
            cannot[cells[1].strip("`")] = cells[2]
    return works, cannot


def has_ended_well(done: subprocess.CompletedProcess[str]) -> bool:
    """Some clients end with a TLS line that is gone already, which asyncio of Python 3.11 does not bear."""
    return done.returncode == 0 or "'NoneType' object has no attribute '_abort'" in done.stderr


@pytest.mark.timeout(200)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_works_as_the_page_says(exchange: dict[str, Any], client: str):
    program = PROGRAMS / f"{client.replace('-', '_').replace(' ', '_')}_calls.py"
    begin = time.monotonic()
    done = subprocess.run(
        [PYTHON, program], env=environment(exchange), capture_output=True, text=True, timeout=180, check=False
    )
    if client == "cryptofeed" and "No module named 'cryptofeed'" in done.stderr:
        pytest.skip("cryptofeed could not be compiled here")
    assert has_ended_well(done), done.stderr[-3000:]
    outcomes = {row["call"]: row["error"] for row in map(json.loads, done.stdout.splitlines())}
    works, cannot = told(client)
    failed = {name: error for name, error in outcomes.items() if error}
    print(f"{client}: {len(outcomes)} calls in {time.monotonic() - begin:.1f} s")
    assert {name: error for name, error in failed.items() if name not in cannot} == {}
    assert works == set(outcomes) - set(failed)
    for name, reason in cannot.items():
        assert any(word in failed[name] for word in re.findall(r"`([^`]+)`", reason)), (name, failed[name])


@pytest.mark.parametrize("client", ["upbit", "pyupbit", "ccxt"])
def test_the_page_shows_what_can_be_run(exchange: dict[str, Any], client: str):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.split("\n## Clients\n", 1)[1], re.DOTALL)
    (block,) = (one for one in blocks if re.search(rf"^import {client}\b", one, re.MULTILINE))
    program = block.replace("http://127.0.0.1:PORT", exchange["rest"])
    done = subprocess.run(
        [PYTHON, "-c", program], env=environment(exchange), capture_output=True, text=True, timeout=60, check=False
    )
    assert has_ended_well(done), done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= 3
    assert "None" not in done.stdout.splitlines()


def test_nothing_leaves_the_machine(exchange: dict[str, Any]):
    """A client that wants another host is refused by the proxy, hence never resolved or connected to."""
    words = "import requests; requests.get('https://docs.upbit.com/', timeout=5)"
    done = subprocess.run(
        [PYTHON, "-c", words], env=environment(exchange), capture_output=True, text=True, timeout=30, check=False
    )
    assert "403 Forbidden" in done.stderr


def test_the_page_names_the_versions_that_ran():
    words = "import sys; from importlib.metadata import version; print([version(name) for name in sys.argv[1:]])"
    names = [name for name in CLIENTS if " " not in name and f"`{name}` " in PAGE]
    done = subprocess.run([PYTHON, "-c", words, *names], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(done.stderr.splitlines()[-1])
    for name, version in zip(names, json.loads(done.stdout.replace("'", '"')), strict=True):
        assert f"| `{name}` {version} |" in PAGE
