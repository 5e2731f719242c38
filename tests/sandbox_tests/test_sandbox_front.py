import contextlib
import datetime as dt
import json
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket
from cryptography import x509

from producers.sandbox import authority, sockets
from producers.sandbox.authority import keep_authority
from producers.sandbox.front import HOSTS
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread

HOST = HOSTS[0]


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    with SandboxThread(
        tmp_path_factory.mktemp("fronted"), plan=Plan(market_count=3), warmup_seconds=3, front_port=0,
        starts_at_once=True,
    ) as running:  # fmt: skip
        yield running


def front_port(sandbox: SandboxThread) -> int:
    assert sandbox.sandbox.front is not None
    return sandbox.sandbox.front.port


def trusted(sandbox: SandboxThread) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(sandbox.configuration.home / "run" / "sandbox-authority.pem"))


def knock(sandbox: SandboxThread, head: bytes) -> bytes:
    """What the proxy answers to a head; it must close the connection then."""
    with socket.create_connection(("127.0.0.1", front_port(sandbox)), timeout=5) as client:
        client.sendall(head)
        answer = b""
        while piece := client.recv(4096):
            answer += piece
        return answer


def tunnel(sandbox: SandboxThread, *small: int) -> socket.socket:
    client = socket.socket()
    for option in small:
        client.setsockopt(socket.SOL_SOCKET, option, 4096)
    client.settimeout(5)
    client.connect(("127.0.0.1", front_port(sandbox)))
    client.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
    assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    return client


def test_a_client_with_a_fixed_address_is_answered_by_the_sandbox(fronted: SandboxThread):
    proxy = urllib.request.ProxyHandler({"https": f"http://127.0.0.1:{front_port(fronted)}"})
    opener = urllib.request.build_opener(proxy, urllib.request.HTTPSHandler(context=trusted(fronted)))
    with opener.open(f"https://{HOST}/v1/market/all", timeout=5) as answer:
        assert len(json.loads(answer.read())) == 3
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"https://{HOST}/v1/accounts", timeout=5)
    assert json.loads(refused.value.read())["error"]["name"] == "no_authorization_token"
    refused.value.close()


def test_a_websocket_goes_through_the_front_both_ways(fronted: SandboxThread):
    client = websocket.create_connection(
        f"wss://{HOST}/websocket/v1", timeout=10, http_proxy_host="127.0.0.1", http_proxy_port=front_port(fronted),
        proxy_type="http", sslopt={"context": trusted(fronted)},
    )  # fmt: skip
    client.send(json.dumps([{"ticket": "t"}, {"type": "orderbook", "codes": ["KRW-BTC"]}]))
    frames = [json.loads(client.recv()) for _ in range(5)]
    assert {frame["code"] for frame in frames} == {"KRW-BTC"}
    client.close()


def test_many_requests_over_one_tunnel_and_their_first_byte_beside_the_handshake(fronted: SandboxThread):
    for _ in range(20):
        with trusted(fronted).wrap_socket(tunnel(fronted), server_hostname=HOST) as client:
            for _ in range(3):
                client.sendall(f"GET /sandbox/clock HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("target", ["example.org:443", f"{HOST}:80", f"evil.{HOST}:443", f"{HOST}.evil:443", "", "x"])
def test_any_other_place_is_refused(fronted: SandboxThread, target: str):
    answer = knock(fronted, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert HOST.encode() in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"GET http://{HOST}/v1/market/all HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01" + b"\0" * 9000, b"400"),
        (f"CONNECT {HOST}:443 HTTP/1.1\r\n\r\nearly".encode(), b"400"),
        (b"x" * 9000, b"400"),
        (b"\xff\xfe\r\n\r\n", b"405"),
    ],
)
def test_what_is_no_connect_is_refused(fronted: SandboxThread, head: bytes, status: bytes):
    assert knock(fronted, head).startswith(b"HTTP/1.1 " + status)


def test_a_broken_handshake_ends_that_connection_alone(fronted: SandboxThread):
    with tunnel(fronted) as client:
        client.sendall(b"this is no handshake at all\r\n")
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass
    with pytest.raises(ssl.SSLCertVerificationError), tunnel(fronted) as client:
        ssl.create_default_context().wrap_socket(client, server_hostname=HOST)
    with trusted(fronted).wrap_socket(tunnel(fronted), server_hostname=HOST):
        pass


def test_a_client_that_says_nothing_is_dropped(fronted: SandboxThread, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("producers.sandbox.front._HEAD_SECONDS", 0.1)
    begin = time.monotonic()
    client = socket.create_connection(("127.0.0.1", front_port(fronted)), timeout=5)
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(10) == b""
    assert time.monotonic() - begin < 5
    assert fronted.sandbox.front is not None
    assert not fronted.sandbox.front.doors


def test_a_client_behind_the_front_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "BACKLOG_BYTES", 300_000)
    plan = Plan(market_count=20, books_per_second=30.0)
    with SandboxThread(tmp_path, plan=plan, warmup_seconds=0, front_port=0, starts_at_once=True) as running:
        codes = [row.market for row in running.sandbox.feed.markets()]
        raw = tunnel(running, socket.SO_RCVBUF)
        secured = trusted(running).wrap_socket(raw, server_hostname=HOST)
        client = websocket.create_connection(f"wss://{HOST}/websocket/v1", socket=secured, timeout=10)
        client.send(json.dumps([{"ticket": "t"}, {"type": "orderbook", "codes": codes}]))
        deadline = time.monotonic() + 60
        while running.status()["cut_off"] == 0:
            assert time.monotonic() < deadline, "nobody cut it off"
            time.sleep(0.05)
        client.shutdown()


# --- the authority ------------------------------------------------------------------------------------------------


def test_the_authority_is_made_once_and_its_key_is_kept_nowhere(tmp_path: Path):
    first = keep_authority(tmp_path, HOSTS)
    content = [path.read_bytes() for path in first]
    assert keep_authority(tmp_path, HOSTS) == first
    assert [path.read_bytes() for path in first] == content
    assert stat.S_IMODE(first.identity.stat().st_mode) == 0o600
    assert b"PRIVATE" not in first.certificate.read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.read_bytes().count(b"BEGIN PRIVATE KEY") for path in files) == 1  # the front's own


def test_the_authority_can_vouch_for_nobody_else(tmp_path: Path):
    made = keep_authority(tmp_path, HOSTS)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    limits = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert limits.value.permitted_subtrees is not None
    assert [one.value for one in limits.value.permitted_subtrees if isinstance(one, x509.DNSName)] == list(HOSTS)


@pytest.mark.parametrize("spoil", ["other hosts", "ending", "foreign", "torn", "gone"])
def test_an_authority_that_does_not_fit_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str):
    if spoil == "ending":
        monkeypatch.setattr(authority, "_DAYS", 20)
    first = keep_authority(tmp_path, ("other.example",) if spoil == "other hosts" else HOSTS)
    monkeypatch.undo()
    before = first.identity.read_bytes()
    if spoil == "foreign":
        other = keep_authority(tmp_path / "other", HOSTS)
        other.certificate.replace(first.certificate)
    elif spoil == "torn":
        first.certificate.write_bytes(first.certificate.read_bytes()[:100])
    elif spoil == "gone":
        first.certificate.unlink()
    again = keep_authority(tmp_path, HOSTS)
    assert again.identity.read_bytes() != before
    leaf = x509.load_pem_x509_certificate(again.identity.read_bytes())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(again.certificate.read_bytes()))
    assert leaf.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=700)
