"""Where the exchange answers: the sandbox's address, or the real one's public side. For the feed and the recorder."""

from typing import NamedTuple

from infra.servers.ports import port_of
from infra.settings import Settings

REAL_REST = "https://api.upbit.com"
REAL_WEBSOCKET = "wss://api.upbit.com/websocket/v1"


class Addresses(NamedTuple):
    """REST, public websocket, and the sandbox's own status call (empty for the real exchange)."""

    rest: str
    websocket: str
    status: str

    @property
    def is_local(self) -> bool:
        """Whether it is the sandbox."""
        return bool(self.status)


def addresses_of(settings: Settings) -> Addresses:
    """The addresses for this deployment's feed."""
    if settings.feed.kind == "upbit":
        return Addresses(REAL_REST, REAL_WEBSOCKET, "")
    host = settings.sandbox.host
    port = settings.sandbox.port or port_of(settings.home, "sandbox")
    rest = f"http://{host}:{port}"
    return Addresses(rest, f"ws://{host}:{port}/websocket/v1", f"{rest}/sandbox/status")
