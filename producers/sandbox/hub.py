"""The public websocket: who gets which frame of the feed, snapshots for new subscriptions, tickers and candles.

Called by the server and the feed's driver. A frame is spelled once per style and its bytes are shared by all
subscribers; plain connections get many frames in one write. During warm-up nothing is dropped (the driver waits for
`drained`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from producers.sandbox.connections import Connection, framed
from producers.sandbox.derived import Derived
from producers.sandbox.feeds import Feed, Frame, Style
from producers.sandbox.grouping import levels_e8
from producers.sandbox.limits import Limits
from producers.sandbox.socket_faults import SocketFaults, pinned
from producers.sandbox.sockets import Sockets
from producers.sandbox.subscriptions import QUOTATION_KINDS, Wanted

BUSY_BYTES = 1024 * 1024
STUCK_SECONDS = 60.0
LIVE_PATIENCE_S = 0.05
_FEED_KINDS = ("orderbook", "trade")


class Hub(Sockets):
    """All public connections of one feed."""

    def __init__(
        self,
        feed: Feed,
        on_first: Callable[[], None],
        *,
        limits: Limits,
        derived: Derived | None = None,
        faults: SocketFaults | None = None,
    ) -> None:
        super().__init__(QUOTATION_KINDS, limits)
        self._feed = feed
        self._on_first = on_first
        self._derived = derived
        self._faults = faults or SocketFaults()
        self._routes: dict[tuple[str, str], list[tuple[Connection, Style]]] = {}
        self._followed: dict[str, set[str]] = {}
        """Market -> the kinds made from its trades that somebody wants."""
        self._recorded: set[str] = set()
        """Kinds that the feed itself tells (a recording with tickers): those are not made here."""
        self._levels: dict[str, tuple[int, ...]] = {}
        self._levels_read = 0.0
        self.sent: Counter[str] = Counter()

    # --- subscriptions ----------------------------------------------------------------------------------------

    def on_subscribed(self, connection: Connection) -> None:
        """Send snapshots; the first subscription starts the market."""
        for wanted in connection.wanted:
            if not wanted.has_snapshot:
                continue
            for market, depth in wanted.codes.items():
                style = _style(connection, wanted, depth, is_snapshot=True)
                for frame in self._snapshots(market, wanted):
                    connection.push(frame.spell(style))
                    self.sent["snapshot:" + frame.kind] += 1
        self._on_first()

    def _snapshots(self, market: str, wanted: Wanted) -> list[Frame]:
        if wanted.kind in _FEED_KINDS:
            return self._feed.snapshots(market, wanted.kind) if self._is_offered(market, wanted) else []
        newest = None if self._derived is None else self._derived.newest(market, wanted.kind)
        return [] if newest is None else [newest]

    def _is_offered(self, market: str, wanted: Wanted) -> bool:
        """Whether the exchange sends anything for this grouping; an unsupported one gets nothing at all."""
        if not wanted.level:
            return True
        now = asyncio.get_running_loop().time()
        if market not in self._levels and now - self._levels_read > 1.0:  # not once per unknown code
            self._levels_read = now
            self._levels = {row.market: levels_e8(row.market, row.tick_e8) for row in self._feed.markets()}
        return wanted.level_e8 in self._levels.get(market, ())

    def on_change(self, connection: Connection) -> None:
        """Take a connection out of the routes and put it where it wants to be now."""
        for key in connection.routed:
            left = [target for target in self._routes.get(key, ()) if target[0] is not connection]
            if left:
                self._routes[key] = left
            else:
                self._routes.pop(key, None)
                self._unfollow(*key)
        connection.routed = []
        for wanted in connection.wanted:
            if not wanted.has_stream:
                continue
            for market, depth in wanted.codes.items():
                if self._is_offered(market, wanted):
                    self._route(connection, wanted, market, depth)

    def _route(self, connection: Connection, wanted: Wanted, market: str, depth: int) -> None:
        key = (wanted.kind, market)
        self._routes.setdefault(key, []).append((connection, _style(connection, wanted, depth)))
        connection.routed.append(key)
        if wanted.kind not in _FEED_KINDS:
            self._followed.setdefault(market, set()).add(wanted.kind)

    def _unfollow(self, kind: str, market: str) -> None:
        kinds = self._followed.get(market, set())
        kinds.discard(kind)
        if not kinds:
            self._followed.pop(market, None)

    # --- frames -----------------------------------------------------------------------------------------------

    def publish(self, frame: Frame) -> None:
        """Queue a frame to everybody who wants it, and what follows from it; `flush` sends."""
        self._pass_on(frame)
        if self._derived is None:
            return
        if frame.exchange_ms >= self._derived.due_ms:
            for late in self._derived.due(frame.exchange_ms):
                self._pass_on(late)
        if frame.kind == "trade":
            self._derived.take(frame)
            if kinds := self._followed.get(frame.market):
                for made in self._derived.on_trade(frame, kinds - self._recorded):
                    self._pass_on(made)
        elif frame.kind != "orderbook":
            self._recorded.add(frame.kind)

    def _pass_on(self, frame: Frame) -> None:
        targets = self._routes.get((frame.kind, frame.market))
        if not targets:
            return
        if self._faults.is_quiet:
            self._send(frame, targets)
            return
        for left in self._faults.changed(pinned(frame, {style for _, style in targets})):
            self._send(left, targets)
        if self._faults.is_dropping(frame):
            for connection in {connection for connection, _ in targets}:
                self.drop(connection)

    def _send(self, frame: Frame, targets: list[tuple[Connection, Style]]) -> None:
        shared: dict[Style, tuple[bytes, bytes]] = {}
        for connection, style in targets:
            if style not in shared:
                payload = frame.spell(style)
                shared[style] = (payload, framed(payload))
            connection.push(*shared[style])
            self.sent[frame.kind] += 1

    def publish_to_all(self, payload: bytes) -> None:
        """Queue bytes that have no market (a frame of a recording that cannot be read) to every subscriber."""
        for connection in self.connections:
            if connection.wanted:
                connection.push(payload)
                self.sent["other"] += 1

    def flush(self) -> None:
        """Write what is queued; cut off whoever does not read."""
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            connection.flush(now)
        self.watch_backlogs()

    async def drained(self, left_bytes: int | None = None, *, is_live: bool = False) -> None:
        """Wait until every client has taken nearly all; one that takes nothing for a minute is cut off.

        In a live market that fell behind, one that takes nothing is not waited for: the others would wait for it too.
        """
        left_bytes = BUSY_BYTES if left_bytes is None else left_bytes
        patience_s = LIVE_PATIENCE_S if is_live else STUCK_SECONDS
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            started = loop.time()
            last = connection.backlog()
            while connection in self.connections and (backlog := connection.backlog()) > left_bytes:
                if backlog < last:
                    started, last = loop.time(), backlog
                if loop.time() - started > patience_s:
                    if not is_live:
                        self.cut(connection)
                    break
                await asyncio.sleep(0.002)


def _style(connection: Connection, wanted: Wanted, depth: int, *, is_snapshot: bool = False) -> Style:
    """Only order books have levels and grouping; all else shares one spelling."""
    if wanted.kind != "orderbook":
        return Style(connection.is_simple, connection.is_list, 30, is_snapshot)
    return Style(connection.is_simple, connection.is_list, depth, is_snapshot, wanted.level_e8)
