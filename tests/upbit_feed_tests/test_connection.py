"""How the feed's socket is read: how long frames may wait for company, and that TLS brings no less at a time."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from producers.sandbox.authority import keep_authority
from producers.upbit.connection import BURST_BYTES, CHUNK_BYTES, GATHER_MANY_S, GATHER_S, MANY_BYTES, _BufferedSocket


@pytest.fixture
def pair() -> Iterator[tuple[_BufferedSocket, socket.socket]]:
    """The feed's end of a line and the other one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)
        yield _BufferedSocket(ours), theirs


@pytest.mark.parametrize(
    ("size", "waited_s"), [(10, GATHER_S), (MANY_BYTES, GATHER_MANY_S), (BURST_BYTES, 0.0), (CHUNK_BYTES, 0.0)]
)
def test_the_more_there_was_the_longer_frames_wait_but_never_in_a_burst(
    pair: tuple[_BufferedSocket, socket.socket], size: int, waited_s: float
) -> None:
    buffered, theirs = pair
    theirs.sendall(bytes(size))
    assert buffered.fill(1.0)
    theirs.sendall(b"x")
    started = time.monotonic()
    assert buffered.fill(1.0)
    assert time.monotonic() - started >= waited_s
    assert buffered.gather_s == GATHER_S
    theirs.sendall(b"x")
    started = time.monotonic()
    assert buffered.fill(GATHER_S / 2), "what is due sooner than that is not kept waiting"
    assert time.monotonic() - started < GATHER_S


def test_a_burst_is_not_waited_for(pair: tuple[_BufferedSocket, socket.socket]) -> None:
    buffered, theirs = pair
    theirs.sendall(bytes(BURST_BYTES))
    assert buffered.fill(1.0)
    assert buffered.gather_s == 0.0


def test_all_tls_records_that_are_there_come_at_once(tmp_path: Path) -> None:
    """The exchange sends each frame in a record of its own; one of them per look would be 100 frames a second."""
    authority = keep_authority(tmp_path, ["exchange.test"])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(authority.identity)
    asking = ssl.create_default_context(cafile=str(authority.certificate))
    near, far = socket.socketpair()
    sent = threading.Event()

    def serve() -> None:
        with serving.wrap_socket(far, server_side=True) as served:
            for _ in range(40):
                served.sendall(b"\x82\x7e\x07\xd0" + bytes(2_000))
            sent.set()
            served.recv(1)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with asking.wrap_socket(near, server_hostname="exchange.test") as ours:
        ours.settimeout(0.05)
        buffered = _BufferedSocket(ours)
        assert sent.wait(5.0)
        assert buffered.fill(1.0)
        frames = 0
        while buffered.data_frame() is not None:
            frames += 1
        assert frames == 40
        ours.sendall(b"x")
    server.join(5.0)
