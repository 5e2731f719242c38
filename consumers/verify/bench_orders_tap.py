"""A wire tap before the exchange: notes when the first byte of every order request comes, and passes all bytes on.

Called by `bench_orders`. It runs in threads of the measuring process; it changes nothing.
"""

import re
import socket
import threading
import time
from contextlib import suppress

_POST = b"POST /v1/orders "
_IDENTIFIER = re.compile(rb'"identifier"\s*:\s*"([^"]+)"')
_CHUNK = 65_536
_TAIL = 4_096


class Tap:
    """Listens on a port of its own for an exchange on this machine; `first_ms` is filled while it runs."""

    def __init__(self, exchange_port: int) -> None:
        self._exchange_port = exchange_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.first_ms: dict[str, float] = {}
        """Identifier to the wall clock when the first byte of its request was there."""
        threading.Thread(target=self._accept, name="tap", daemon=True).start()

    def close(self) -> None:
        """Take no new connections; open ones end with their clients."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._exchange_port)) as exchange:
            for line in (client, exchange):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pass_on, args=(exchange, client), daemon=True)
            back.start()
            self._listen(client, exchange)
            back.join(5)

    def _listen(self, client: socket.socket, exchange: socket.socket) -> None:
        """Requests of one connection come one after the other; headers and body may come apart."""
        began_ms, text = 0.0, b""
        while data := client.recv(_CHUNK):
            if data.startswith(_POST):
                began_ms, text = time.time() * 1000, b""
            exchange.sendall(data)
            if began_ms:
                text = (text + data)[-_TAIL:]
                if (found := _IDENTIFIER.search(text)) is not None:
                    self.first_ms.setdefault(found[1].decode(), began_ms)
                    began_ms = 0.0
        with suppress(OSError):
            exchange.shutdown(socket.SHUT_WR)

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
