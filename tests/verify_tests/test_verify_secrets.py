"""The search for marked secrets finds every form in every kind of place, and the whole proof runs in small."""

import base64
import hashlib
import json
import sqlite3
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from consumers.verify.secrets import verify_secrets
from consumers.verify.secrets_search import AROUND, Search, database_rows, file_chunks, forms, memory_chunks

MARKER = "Qait1f2e"
SECRET = f'{MARKER}+/"\\%&<0123456789abcdef'
PAIR = MARKER.encode() + hashlib.sha256(b"pair").digest()[:22]
PRIVATE = hashlib.sha256(b"private").digest()


def search() -> Search:
    return Search(MARKER, {"secret": SECRET.encode(), "pair": PAIR, "file": PAIR.hex().encode()}, {"private": PRIVATE})


def found_in(*chunks: bytes) -> set[str]:
    one = search()
    one.look("place", "here", chunks)
    return {name for _, _, name, _ in one.hits}


def at(encode: Callable[[bytes], bytes], place: int, text: str) -> bytes:
    """The text somewhere inside what is encoded."""
    return encode(b"x" * place + text.encode() + b"yz")


ENCODINGS = {
    "plain": lambda text: text.encode(),
    "hex": lambda text: text.encode().hex().encode(),
    "HEX": lambda text: text.encode().hex().upper().encode(),
    "url": lambda text: urllib.parse.quote(text, safe="").encode(),
    "url plus": lambda text: urllib.parse.urlencode({"key": text}).encode(),
    "json": lambda text: json.dumps({"key": text}).encode(),
    "json in json": lambda text: json.dumps(json.dumps({"key": text})).encode(),
    "repr": lambda text: repr({"key": text}).encode(),
    "utf-16": lambda text: text.encode("utf-16-le"),
    **{f"base64 at {place}": partial(at, base64.b64encode, place) for place in range(5)},
    **{f"base64url at {place}": partial(at, base64.urlsafe_b64encode, place) for place in range(5)},
    "token": lambda text: base64.urlsafe_b64encode(json.dumps({"access_key": text, "nonce": "1"}).encode()),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_form_is_found_wherever_it_stands(name: str) -> None:
    content = ENCODINGS[name](SECRET)
    if name == "token":  # what JSON escapes is in another form inside the token: keys are letters and digits there
        plain = f"{MARKER}0123456789abcdef"
        one = Search(MARKER, {"secret": plain.encode()}, {})
        one.look("place", "here", [b"Bearer e30." + ENCODINGS[name](plain) + b".sig"])
        assert one.hits
        return
    assert found_in(b"before" + content + b"behind") == {"secret"}
    for border in range(0, len(content), 7):
        assert found_in(b"a" * AROUND + content[:border], content[border:] + b"b" * 10) == {"secret"}
    assert found_in(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :]) == set()


@pytest.mark.parametrize("content", [PRIVATE, PRIVATE.hex().encode(), base64.b64encode(b"xx" + PRIVATE)])
def test_a_secret_without_the_marker_is_found(content: bytes) -> None:
    assert found_in(b"1" * 100 + content) == {"private"}


@pytest.mark.parametrize(
    "content",
    [PAIR, PAIR.hex().encode(), PAIR.hex().upper().encode(), *(base64.b64encode(b"x" * n + PAIR) for n in range(3))]
    + [base64.b64encode(b"x" * n + PAIR.hex().encode()) for n in range(3)],
)
def test_a_marked_secret_of_bytes_is_found(content: bytes) -> None:
    assert found_in(b"1" * 100 + content + b"2") & {"pair", "file"}


def test_nothing_is_found_where_there_is_nothing() -> None:
    assert found_in(MARKER.encode(), b"\0" * 10_000, SECRET[:-1].encode(), PRIVATE[:-1]) == set()
    assert all(len(pattern) >= 6 for pattern in forms(b"abcdef"))


def test_files_and_rows_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000_000 + SECRET.encode())
    assert found_in(*file_chunks(tmp_path / "file")) == {"secret"}
    assert found_in(*file_chunks(tmp_path / "nothing")) == set()
    connection = sqlite3.connect(tmp_path / "rows.sqlite")
    connection.execute("CREATE TABLE one (text TEXT, bytes BLOB, number INTEGER)")
    connection.execute("INSERT INTO one VALUES (?, ?, 1)", ("x" * 50_000 + SECRET, b"\0"))
    connection.commit()
    connection.close()
    assert found_in(*database_rows(tmp_path / "rows.sqlite")) == {"secret"}


@pytest.mark.skipif(sys.platform != "linux", reason="memory of other processes is looked at through /proc")
def test_another_process_is_read_like_a_core_dump() -> None:
    code = "import sys; text = sys.stdin.readline(); print('ready', flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert found_in(*memory_chunks(holder.pid)) == set()
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(SECRET + "\n")
        holder.stdin.flush()
        holder.stdout.readline()
        assert found_in(*memory_chunks(holder.pid)) == {"secret"}
        holder.kill()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.readline()", SECRET], stdin=subprocess.PIPE
    ) as argued:
        assert found_in(*memory_chunks(argued.pid)) == {"secret"}, "a key must not be an argument: here one is seen"
        argued.kill()


@pytest.mark.kafka
@pytest.mark.slow
def test_no_marked_key_leaves_the_executor() -> None:
    result = verify_secrets(quick=True)
    assert result["passed"], result
    figures = result["figures"]
    assert figures["hits"] == 0
    assert figures["kinds of places where the planted text was found"] == figures["kinds of places"] == 6
    assert figures["marked secrets seen in the executor's own memory"] != 0
    assert figures["forms of the API's token seen in its own memory"] != 0
    assert figures["questions to the API"] == 9
    assert figures["orders filled"] >= 6
    assert figures["keys: taken"] >= 3
