"""One person who looks at the page: an open session of its websocket that refreshes as a browser does.

Called by `observator bench memory`, so that the page's process works while it is measured. Never clicks.
"""

import threading
import time

import websocket
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

_OPEN_WITHIN_S = 60.0


class PageReader(threading.Thread):
    """Opens the page at a port and asks for each of its parts anew as often as the page wants it."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._address = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._due: dict[str, tuple[float, float]] = {}
        """Fragment to its interval and when it is due next, in seconds."""
        self._ended = threading.Event()
        self.refreshes = 0
        """How many runs of a part of the page came to their end."""
        self.error: Exception | None = None

    def close(self) -> None:
        """Close the session, as when the tab is closed."""
        self._ended.set()
        self.join(10)

    def run(self) -> None:
        """Open the session and keep it until `close`."""
        try:
            connection = self._open()
            try:
                _ask(connection)
                while not self._ended.is_set():
                    self._read(connection)
                    self._refresh(connection)
            finally:
                connection.close()
        except Exception as error:  # noqa: BLE001 outermost of a thread: the bench raises it
            self.error = error

    def _open(self) -> websocket.WebSocket:
        give_up = time.monotonic() + _OPEN_WITHIN_S
        while True:
            try:
                return websocket.create_connection(self._address, timeout=10, subprotocols=["streamlit"])
            except (OSError, websocket.WebSocketException):
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def _read(self, connection: websocket.WebSocket) -> None:
        """Take one message, or none until the next part is due."""
        first_due = min((due for _, due in self._due.values()), default=time.monotonic() + 1)
        connection.settimeout(max(0.01, first_due - time.monotonic()))
        try:
            data = connection.recv()
        except websocket.WebSocketTimeoutException:
            return
        if not data:
            raise ConnectionError("the page has closed the session")
        message = ForwardMsg.FromString(data)
        match message.WhichOneof("type"):
            case "new_session" if not message.metadata.run.fragment_ids:
                self._due.clear()  # the whole page runs anew and will name its parts again
            case "auto_rerun":
                interval = message.auto_rerun.interval
                self._due.setdefault(message.auto_rerun.fragment_id, (interval, time.monotonic() + interval))
            case "stop_auto_rerun":
                for fragment in message.stop_auto_rerun.fragment_ids:
                    self._due.pop(fragment, None)
            case "script_finished":
                self.refreshes += message.script_finished == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY
            case "delta" if message.delta.new_element.WhichOneof("type") == "exception":
                raise RuntimeError(f"the page shows an error: {message.delta.new_element.exception.message}")

    def _refresh(self, connection: websocket.WebSocket) -> None:
        now = time.monotonic()
        for fragment, (interval, due) in self._due.items():
            if now >= due:
                self._due[fragment] = (interval, now + interval)
                _ask(connection, fragment)


def _ask(connection: websocket.WebSocket, fragment: str = "") -> None:
    """Ask for the page, or for one part of it."""
    wish = BackMsg()
    wish.rerun_script.query_string = ""
    wish.rerun_script.fragment_id = fragment
    wish.rerun_script.is_auto_rerun = bool(fragment)
    wish.rerun_script.SetInParent()
    connection.send_binary(wish.SerializeToString())
