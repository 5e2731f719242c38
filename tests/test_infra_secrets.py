"""What holds a secret does not show it: the type, the log lines, the boxes, the environment, the process itself."""

import copy
import io
import json
import logging
import os
import pickle
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import secrets_process
from infra.errors import BadSettings
from infra.logs import JsonFormatter, PublishHandler, TextFormatter
from infra.secrets import HIDDEN, Secret, hide, masked, remove_secrets
from infra.secrets_box import (
    PRIVATE,
    PUBLIC,
    CannotOpen,
    KeyPair,
    box_id,
    keep_pair,
    new_pair,
    put_pairs,
    read_pair,
    read_pairs,
    read_public,
    seal,
)
from infra.supervisor import end_orphans, marked

UPBIT_KEY = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4zAb7dEf0h"


# --- the type --------------------------------------------------------------------------------------------------------


def test_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    secret = Secret(UPBIT_KEY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>80}", f"{secret!r}", f"{[secret]}", f"{secret!s}"]
    assert not [text for text in shown if UPBIT_KEY[:6] in text]
    assert secret.reveal() == UPBIT_KEY
    assert secret == Secret(UPBIT_KEY)
    assert secret != Secret("other")
    assert hash(secret) == hash(Secret("other"))
    for write in (pickle.dumps, copy.copy, json.dumps, msgspec.json.encode):
        with pytest.raises(TypeError) as found:
            write(secret)
        assert UPBIT_KEY not in str(found.value)


@pytest.mark.parametrize(("key", "shown"), [(UPBIT_KEY, "Ab3d...0h"), ("short", "..."), ("", "...")])
def test_a_masked_key_cannot_be_used(key: str, shown: str) -> None:
    assert masked(key) == shown


# --- log lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"the key {UPBIT_KEY} is wrong",
        f'{{"access_key": "{UPBIT_KEY}"}}',
        f"secret={UPBIT_KEY}",
        f"access_key={UPBIT_KEY}&nonce=1",
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJhY2Nlc3Nfa2V5IjoiQWIzZCJ9.c2lnbmF0dXJlLWhlcmU",
        "x" * 86,
    ],
)
def test_a_line_with_a_key_is_cleaned_wherever_it_goes(text: str) -> None:
    record = logging.LogRecord("infra.test", logging.INFO, __file__, 1, "sent %s", (text,), None)
    kept: list[str] = []
    handler = PublishHandler(lambda line: kept.append(line.getMessage()))
    lines = [JsonFormatter("execute").format(record), TextFormatter("%(message)s").format(record)]
    handler.handle(record)
    for line in [*lines, *kept]:
        assert HIDDEN in line
        assert UPBIT_KEY not in line
        assert "eyJ" not in line


def test_a_trace_is_cleaned_too() -> None:
    try:
        int(UPBIT_KEY)
    except ValueError:
        record = logging.LogRecord("infra.test", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    for formatter in (JsonFormatter("execute"), TextFormatter("%(message)s")):
        assert UPBIT_KEY not in formatter.format(record)
        assert "ValueError" in formatter.format(record)


@pytest.mark.parametrize("text", ["order ob-abcdefghijklmnopqrstuvwxyz-1 sent", "a" * 26, "a" * 39, "b" * 41, "1" * 20])
def test_what_is_no_key_stays_readable(text: str) -> None:
    assert hide(text) == text


# --- boxes -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=500))
def test_only_the_right_pair_opens_a_box(content: bytes) -> None:
    pair, other = new_pair(), new_pair()
    sealed = seal(pair.public, content)
    assert pair.open(sealed) == content
    assert box_id(sealed) == box_id(sealed)
    assert seal(pair.public, content) != sealed
    with pytest.raises(CannotOpen):
        other.open(sealed)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_one_changed_byte_spoils_a_box(place: int, change: int) -> None:
    pair = new_pair()
    sealed = bytearray(msgspec.json.decode(msgspec.json.encode(seal(pair.public, b"content")), type=bytes))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(CannotOpen):
        pair.open(msgspec.json.decode(msgspec.json.encode(bytes(sealed)), type=str))


def test_the_files_of_a_pair(tmp_path: Path) -> None:
    pair = keep_pair(tmp_path)
    assert keep_pair(tmp_path) == pair == read_pair(tmp_path)
    assert read_public(tmp_path / PUBLIC) == pair.public
    assert pair.private.hex() not in repr(pair)
    assert (tmp_path / PRIVATE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / PRIVATE).parent.stat().st_mode & 0o777 == 0o700
    assert pair.private.hex() not in (tmp_path / PUBLIC).read_text()
    newer = new_pair()
    put_pairs(tmp_path, [newer, pair])
    assert read_pairs(tmp_path) == [newer, pair]
    assert read_public(tmp_path / PUBLIC) == newer.public
    (tmp_path / PUBLIC).unlink()
    assert keep_pair(tmp_path) == newer
    assert read_public(tmp_path / PUBLIC) == newer.public


def test_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    for damage in ("", "no hex", "abcd"):
        (tmp_path / PRIVATE).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / PRIVATE).write_text(damage)
        with pytest.raises(BadSettings, match="add the keys again"):
            read_pair(tmp_path)
    with pytest.raises(BadSettings, match="start the executor once"):
        read_public(tmp_path / "nothing")
    for damage in ("{", "{}", '{"id": "a", "public_key": "AAAA"}'):
        (tmp_path / "damaged").write_text(damage)
        with pytest.raises(BadSettings, match="copy the file"):
            read_public(tmp_path / "damaged")


def test_a_mark_needs_the_private_part() -> None:
    pair = new_pair()
    assert pair.sign("a", "b") == KeyPair(pair.private).sign("a", "b")
    assert len({pair.sign("a", "b"), pair.sign("ab", ""), new_pair().sign("a", "b")}) == 3


# --- the process -----------------------------------------------------------------------------------------------------


def test_secrets_go_from_an_environment_and_nothing_else_does() -> None:
    environ = dict.fromkeys(
        ["UPBIT_ACCESS_KEY", "upbit_secret_key", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "GITHUB_TOKEN", "MY_API_KEY"],
        "x",
    )
    kept = {"PATH": "/bin", "OBSERVATOR_HOME": "here", "LANG": "ko_KR.UTF-8", "TOKENIZE": "y"}
    found = remove_secrets(environ | kept, ["DB_PASSWORD"])
    assert set(found) == set(environ) - {"DB_PASSWORD"} | {"TOKENIZE"}
    remaining = environ | kept
    remove_secrets(remaining)
    assert remaining == {name: value for name, value in kept.items() if name != "TOKENIZE"}


CHILD = """
import ctypes, os, sys
from pathlib import Path
from infra.secrets_process import shut_off
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process that this user started
canary = "".join(reversed("yranac-eht-si-siht"))
if sys.argv[1] == "shut":
    assert shut_off()
print("ready", flush=True)
sys.stdin.readline()
"""
LOOK = """
import os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open(f"/proc/{sys.argv[1]}/environ", "rb").read()
    with open(f"/proc/{sys.argv[1]}/maps") as maps:
        place = next(line for line in maps if "rw-p" in line and "heap" in line).split("-")[0]
    with open(f"/proc/{sys.argv[1]}/mem", "rb") as memory:
        memory.seek(int(place, 16)); memory.read(16)
    print("open")
except PermissionError:
    print("shut")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory of other processes is looked at through /proc")
@pytest.mark.parametrize("wanted", ["open", "shut"])
def test_another_process_of_the_same_user_cannot_look_into_one_that_is_shut_off(wanted: str) -> None:
    root = Path(__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, wanted], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        looked = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LOOK, str(child.pid)], capture_output=True, text=True, check=True
        )
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        child.communicate("\n")
    assert looked.stdout.strip() == wanted
    if wanted == "shut":
        core = next(line for line in limits.splitlines() if line.startswith("Max core"))
        assert core.split()[4:6] == ["0", "0"]


def test_a_process_that_cannot_be_looked_into_is_found_and_ended_all_the_same(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from infra.secrets_process import shut_off;"
        "shut_off(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert [process.pid for process in marked(tmp_path)] == [child.pid]
        alone = secrets_process.isolation(tmp_path, [psutil.Process()])
        assert not alone.is_isolated
        assert "not isolated" in alone.text
        assert "system user" in alone.remedy
        assert end_orphans(tmp_path) == 1
    assert secrets_process.noted(tmp_path) is None
    assert marked(tmp_path) == []
    assert "not running" in secrets_process.isolation(tmp_path, []).text


BECOME = """
import os, sys
from pathlib import Path
from infra.errors import BadSettings
from infra.secrets_box import keep_pair, read_pair
from infra.secrets_process import become, isolation, noted, shut_off
home = Path(sys.argv[1])
shut_off(home)
keep_pair(home)
become("nobody", home, ())  # all that it needs is loaded
assert shut_off()
read_pair(home)
(home / "db" / "execution.sqlite").write_text("x")
(home / "run" / "answer").write_text("x")
print(os.geteuid(), (home / "run" / "secrets" / "paper").read_text(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can go on as another user")
def test_the_executor_goes_on_as_a_user_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)
        (home / "run" / "secrets").mkdir(parents=True, mode=0o700)
        (home / "run" / "secrets" / "paper").write_text("of-the-sandbox")
        (home / "run" / "secrets" / "paper").chmod(0o600)
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(
            [sys.executable, "-c", BECOME, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            said = child.stdout.readline()
            assert said, child.stderr.read()
            nobody = pwd.getpwnam("nobody").pw_uid
            assert said.split() == [str(nobody), "of-the-sandbox"]
            assert (home / PRIVATE).stat().st_uid == nobody
            assert (home / PRIVATE).stat().st_mode & 0o777 == 0o600
            assert secrets_process.isolation(home, []).is_isolated
            assert not secrets_process.isolation(home, [psutil.Process()]).is_isolated
            child.communicate("\n")


def test_a_user_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no user 'nobody-of-that-name'"):
        secrets_process.become("nobody-of-that-name", tmp_path)


def test_plain_lines_are_written_as_before() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter("%(levelname)s %(message)s"))
    handler.handle(logging.LogRecord("infra.test", logging.INFO, __file__, 1, "joined %s", ("g",), None))
    assert stream.getvalue() == "INFO joined g\n"
