"""Stands between the executor and the sandbox exchange, and breaks answers on demand; used by `secrets_run`.

Bytes go through as they are. While it is told so, a request meets instead: an answer that is no JSON, or one that
repeats the request's own headers in its error text, as badly written servers do.
"""

import json
import selectors
import socket
import threading
from typing import Literal, Self

Mode = Literal["through", "broken", "echo"]
_MOST = 1 << 16


class Wire:
    """A listener on a port of its own; every connection has two threads."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.mode: Mode = "through"
        self.broken = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._is_closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection; what breaks it ends it."""
        try:
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                selector = selectors.DefaultSelector()
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                with selector:
                    while self._pass_on(selector, client):
                        pass
        except OSError:
            return

    def _pass_on(self, selector: selectors.BaseSelector, client: socket.socket) -> bool:
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(_MOST)
            if not data:
                return False
            is_signed = b"authorization: bearer" in data.lower()
            if key.fileobj is client and self.mode != "through" and is_signed:
                client.sendall(self._answer(data))
                self.broken += 1
                return False
            key.data.sendall(data)
        return not self._is_closed

    def _answer(self, request: bytes) -> bytes:
        if self.mode == "broken":
            status, body = "200 OK", b'{"uuid": "broken'
        else:
            text = request.split(b"\r\n\r\n")[0].decode(errors="replace")
            status = "400 Bad Request"
            body = json.dumps({"error": {"name": "bad_request", "message": text}}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + body
