"""Listens to the private websocket (`myOrder`) and says which of our orders changed.

Only a wake-up: the truth about an order is always fetched by REST, so a lost or early message harms nothing. `executor`
runs it in a thread.
"""

import json
import logging
from collections.abc import Callable
from threading import Event

from upbit.lib.jwt_auth import create_jwt_token
from websocket import WebSocket, WebSocketException, WebSocketTimeoutException

from consumers.execute.guard import check_address

logger = logging.getLogger(__name__)

PING_S = 20.0
POLL_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
_SUBSCRIPTION = json.dumps([{"ticket": "observator-execute"}, {"type": "myOrder"}])


def listen(address: str, access_key: str, secret_key: str, on_order: Callable[[str], None], stop: Event) -> None:
    """Call `on_order(identifier)` for every message about an order, until `stop`; reconnects by itself."""
    check_address(address)
    pause_s = FIRST_PAUSE_S
    while not stop.is_set():
        socket = WebSocket()
        try:
            token = create_jwt_token(access_key, secret_key)
            socket.settimeout(POLL_S)
            header = [f"Authorization: Bearer {token}"]
            no_proxy = ["127.0.0.1", "localhost", "::1"]
            # Upbit counts a request with an Origin header as a browser's: one in ten seconds
            socket.connect(address, header=header, http_no_proxy=no_proxy, suppress_origin=True)  # type: ignore[no-untyped-call]  # the library's
            socket.send(_SUBSCRIPTION)
            pause_s = FIRST_PAUSE_S
            _read(socket, on_order, stop)
        except (WebSocketException, OSError) as error:
            logger.info("the private websocket is away (%s): orders are polled", error)
        finally:
            socket.close(timeout=1)
            socket.shutdown()  # type: ignore[no-untyped-call]  # `close` leaves it open where the other side closed first
        stop.wait(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _read(socket: WebSocket, on_order: Callable[[str], None], stop: Event) -> None:
    silent_s = 0.0
    while not stop.is_set():
        try:
            frame = socket.recv()
        except WebSocketTimeoutException:
            silent_s += POLL_S
            if silent_s >= PING_S:
                socket.ping()
                silent_s = 0.0
            continue
        silent_s = 0.0
        identifier = identifier_of(frame)
        if identifier:
            on_order(identifier)


def identifier_of(frame: str | bytes) -> str:
    """The identifier in a `myOrder` frame; empty for anything else, malformed frames included."""
    try:
        message = json.loads(frame)
    except ValueError:
        return ""
    if not isinstance(message, dict) or message.get("type") != "myOrder":
        return ""
    return str(message.get("identifier") or "")
