"""`observator record`: raw frames of the public stream into a file, as `producers.recordings` writes them."""

import contextlib
import logging
import time
from pathlib import Path
from threading import Event

from infra.errors import BadSettings, ExchangeUnavailable
from infra.settings import Settings
from producers.recordings import Frame, RecordingWriter
from producers.upbit.addresses import Addresses, addresses_of
from producers.upbit.backoff import Backoff
from producers.upbit.connection import Connection
from producers.upbit.markets import choose
from producers.upbit.rest import Quotation

logger = logging.getLogger(__name__)

PING_S = 5.0
LOOK_S = 0.2


def record(settings: Settings, out: Path, seconds: float, stop: Event) -> int:
    """Write the frames of the next `seconds`, or until `stop`; returns how many.

    Reconnects when the connection breaks. Raises `ExchangeUnavailable` when the first connect fails, `BadSettings` for
    a market that does not exist, `DiskFull` when there is no room; then no file is left.
    """
    addresses = addresses_of(settings)
    with contextlib.closing(Quotation(addresses.rest, is_local=addresses.is_local)) as quotation:
        chosen = choose(settings.feed, quotation.markets())
    if chosen.unknown or not chosen.markets:
        raise BadSettings(f"feed.markets: the exchange does not list {', '.join(chosen.unknown) or 'any'}")
    connection: Connection | None = _connect(addresses, chosen.markets)
    until = time.monotonic() + seconds
    backoff = Backoff(0.2, 10.0)
    with RecordingWriter(out) as writer:
        while time.monotonic() < until and not stop.is_set():
            try:
                if connection is None:
                    connection = _connect(addresses, chosen.markets)
                _copy(connection, writer, until, stop)
            except ExchangeUnavailable as error:
                logger.warning("recording goes on when the exchange is back: %s", error)
                if connection is not None:
                    connection.close()
                    connection = None
                stop.wait(min(backoff.pause_s(), max(0.0, until - time.monotonic())))
    if connection is not None:
        connection.close()
    return writer.frames


def _connect(addresses: Addresses, markets: list[str]) -> Connection:
    connection = Connection(addresses.websocket)
    connection.subscribe(markets)
    return connection


def _copy(connection: Connection, writer: RecordingWriter, until: float, stop: Event) -> None:
    """Write what comes; raises `ExchangeUnavailable` when the connection ends or hangs."""
    pinged = time.monotonic()
    while (now := time.monotonic()) < until and not stop.is_set():
        raw = connection.receive(lambda: LOOK_S)
        if raw is not None:
            writer.write(Frame(connection.wall_ns, raw))
        elif now - pinged > PING_S:
            if now - connection.last_frame_ns / 1e9 > 2 * PING_S:
                raise ExchangeUnavailable("the connection hangs")
            pinged = now
            connection.ping()
