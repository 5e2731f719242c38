"""One subscriber of a sandbox in a process of its own: counts messages, books and bytes, as cheaply as Python can.

Run as a file by `sandbox_process.Subscriber` (nothing of ours is imported, so that twenty start at once): the port and
the subscription are arguments; every line on its input is answered with the counts so far.
"""

import base64
import json
import os
import select
import socket
import sys

_MOST = 1 << 20
_BOOK = b'{"type":"orderbook"'


def connect(port: int, request: str) -> socket.socket:
    """Open a websocket without compression and subscribe."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _MOST)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /websocket/v1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    if b" 101 " not in answer.split(b"\r\n")[0]:
        raise SystemExit(answer.split(b"\r\n")[0].decode())
    payload = request.encode()
    connection.sendall(b"\x82\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload)  # the mask is zero
    return connection


class Counter:
    """Walks over the headers of websocket frames and looks at no more inside than how they begin."""

    def __init__(self) -> None:
        self.messages = 0
        self.books = 0
        self.bytes = 0
        self._skip = 0
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Count what begins in `data`."""
        self.bytes += len(data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = self._skip, len(data)
        while at + 2 <= end:
            size = data[at + 1]
            head = 2 if size < 126 else 4 if size == 126 else 10
            if at + head > end:
                break
            if head > 2:
                size = int.from_bytes(data[at + 2 : at + head], "big")
            if at + head + min(size, len(_BOOK)) > end:
                break
            self.messages += 1
            self.books += data.startswith(_BOOK, at + head)
            at += head + size
        if at < end:
            self._rest = data[at:]
            at = end
        self._skip = at - end


def main() -> None:
    """Read until the input ends."""
    connection = connect(int(sys.argv[1]), sys.argv[2])
    counter = Counter()
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                if not os.read(0, 4096):
                    return
                counts = {"messages": counter.messages, "books": counter.books, "bytes": counter.bytes}
                print(json.dumps(counts), flush=True)
                continue
            data = connection.recv(_MOST)
            if not data:
                raise SystemExit("the sandbox cut the connection")
            counter.take(data)


if __name__ == "__main__":
    main()
