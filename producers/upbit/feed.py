"""The process that reads Upbit's public stream, or the sandbox's, into `orderbooks` and `trades`.

`run` is its entry; the command line calls it. One thread reads, parses and publishes; REST calls run beside it
(`producers.upbit.errands`). Never decides anything and never drops a frame without a dead letter.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from infra.errors import BadMessage, BadSettings, ExchangeUnavailable, Retry
from infra.log import Log
from infra.manifest import as_fields, make_manifest
from infra.settings import Settings
from producers.upbit.addresses import Addresses, addresses_of
from producers.upbit.backfill import Backfill
from producers.upbit.backoff import Backoff
from producers.upbit.connection import Connection
from producers.upbit.endings import Endings
from producers.upbit.errands import Errand, SandboxStatus, outcome, sandbox_status
from producers.upbit.markets import Chosen, choose, described
from producers.upbit.outlet import Outlet
from producers.upbit.parse import ExchangeError, Parser, Status, Unusable
from producers.upbit.quotes import QUIET_MARKET_MS, Quotes, Silence
from producers.upbit.rest import Quotation
from producers.upbit.session import Beginning, next_session
from producers.upbit.source import BOOKS, FeedKind, Output, Source, Stretch
from streams.messages import Market, OrderBook, RunManifest, Trade, Warmed, key_of

logger = logging.getLogger(__name__)

PROCESS = "feed"
EXCHANGE = "upbit"
SOURCE = "upbit"
CHECK_NS = 50_000_000
PING_NS = 1_000_000_000
"""A connection quiet for this long is asked for a sign of life."""
ALIVE_NS = 2_500_000_000
"""No heartbeat without a frame or pong within this: a connection that hangs has data for us that we do not see."""
QUIET_FACTOR = 3
"""A connection that answers but brings no data for this many stale times is given up as well."""
STATUS_EVERY_S = 0.5
MARKETS_EVERY_S = 60.0
CLOSE_TIMEOUT_S = 5.0
MISSED_AT_ONCE = 500
"""Back-filled trades published per check: the stream does not wait for those of a long hole."""
_DATA = (OrderBook, Trade)


def run(settings: Settings, log: Log, stop: Event) -> None:
    """Read the feed until `stop` is set. Raises a `Stop` error where a person has to do something."""
    addresses = addresses_of(settings)
    quotation = Quotation(addresses.rest, is_local=addresses.is_local)
    with contextlib.closing(quotation), ThreadPoolExecutor(2, thread_name_prefix="errand") as pool:
        begin = _beginning(log, stop)
        if begin is None:
            return
        outlet = Outlet(log, PROCESS)
        try:
            outlet.send("manifests", PROCESS, _manifest(settings))
            feed = Feed(settings, addresses, log.partitions(BOOKS), begin, outlet, quotation, pool, stop)
            with _quoting(feed, log, quotation, stop):
                feed.run()
        finally:
            stop.set()
            _close(outlet)


class Feed:
    """The loop. All state of one run."""

    def __init__(
        self,
        settings: Settings,
        addresses: Addresses,
        partitions: int,
        begin: Beginning,
        outlet: Outlet,
        quotation: Quotation,
        pool: ThreadPoolExecutor,
        stop: Event,
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._partitions = partitions
        self._outlet = outlet
        self._quotation = quotation
        self._pool = pool
        self._stop = stop
        self._chosen: Chosen | None = None
        self._source = self._new_source(begin)
        self._begin = begin
        self._parser = Parser(EXCHANGE, SOURCE, begin.session)
        self._connection: Connection | None = None
        self._backoff = Backoff(0.1, 2.0) if addresses.is_local else Backoff(0.5, 30.0)
        self._is_refused = False
        self._is_finished = False
        self._is_asking = settings.feed.kind != "upbit"
        self._ended_ns = 0
        self._frames = 0
        self._check_ns = 0
        self._ping_ns = 0
        self._data_ns = 0
        self._status = Errand(pool, partial(sandbox_status, addresses.status), STATUS_EVERY_S)
        self._endings = Endings(addresses.websocket)
        self._described = Errand(pool, self._describe, MARKETS_EVERY_S)
        self._backfills: list[Future[None]] = []
        self._missed: SimpleQueue[Trade] = SimpleQueue()
        speed = settings.feed.speed if addresses.is_local else 1.0
        self.silence = Silence(settings.feed.stale_seconds / 2, QUIET_MARKET_MS / 1000 / speed)

    def estimate_ms(self, now_ns: int) -> int:
        """The exchange's time; asked from the thread of the prices over REST."""
        return self._source.estimate_ms(now_ns)

    def run(self) -> None:
        """Connect, read, reconnect, until told to stop; after the end of a recording only wait."""
        while not self._stop.is_set():
            try:
                self._turn()
            except Retry as error:
                self._renew(str(error))
        self._drop()

    def _turn(self) -> None:
        try:
            if self._is_finished:
                self._stop.wait(1.0)
            elif self._connection is None:
                self._connect()
            else:
                self._step(self._connection)
        except ExchangeUnavailable as error:
            self._on_lost(str(error))

    # --- connecting -----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._chosen is None:
            self._choose()
        connection = Connection(self._addresses.websocket)
        self._connection = connection
        connection.subscribe(self._source.markets)
        self._data_ns = connection.last_frame_ns
        self._is_refused = False
        self._say("connected", f"{len(self._source.markets)} markets at {self._addresses.websocket}")

    def _choose(self) -> None:
        """Ask which markets there are; those that do not exist are named and left out."""
        try:
            listings = self._quotation.markets()
        except BadMessage as error:
            raise ExchangeUnavailable(str(error)) from error
        if not listings and not self._addresses.is_local:
            raise ExchangeUnavailable("the exchange lists no market at all")
        chosen = choose(self._settings.feed, listings)
        for market in chosen.unknown:
            self._say("refused", f"the exchange does not list {market}; it is left out", [market])
        if not chosen.markets:
            raise BadSettings("feed.markets: the exchange lists none of them")
        self._chosen = chosen
        self._source = self._new_source(self._begin)
        self.silence.begin(chosen.markets, time.monotonic_ns())

    def _on_lost(self, reason: str) -> None:
        """Say what happened, once, and wait before the next attempt."""
        if self._connection is not None:
            self._drop()
            self._source.on_disconnected(reason)
            self._say("disconnected", reason)
        elif not self._is_refused:
            self._is_refused = True
            self._say("refused", f"{reason}; trying again")
        self._stop.wait(self._backoff.pause_s())

    def _renew(self, reason: str) -> None:
        """Some records are lost, nobody knows which: a new session, whose first heartbeat says from where on."""
        logger.error("delivery failed, a new session begins: %s", reason)
        session = max(self._source.session + 1, time.time_ns() // 1_000_000)
        self._begin = Beginning(session, self._source.complete_to_ms, self._begin.known)
        self._source = self._new_source(self._begin)
        self._parser = Parser(EXCHANGE, SOURCE, session)
        self._frames = 0
        self._is_asking = self._addresses.is_local  # the word that the warm-up is over may be among what was lost

    def _new_source(self, begin: Beginning) -> Source:
        return Source(
            EXCHANGE,
            SOURCE,
            begin.session,
            self._chosen.markets if self._chosen is not None else [],
            grid_ms=self._settings.grid.grid_ms,
            lateness_ms=self._settings.grid.lateness_ms,
            speed=self._settings.feed.speed if self._addresses.is_local else 1.0,
            partitions=self._partitions,
            since_ms=begin.since_ms,
            known=begin.known,
            is_wall_timed=not self._addresses.is_local,
        )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- reading --------------------------------------------------------------------------------------------------

    def _step(self, connection: Connection) -> None:
        """One frame, or what is due when there is none.

        Time alone closes bins only when no frame waits, so that a burst or a slow log never makes records late.
        """
        raw = connection.receive(self._patience_s)
        if raw is not None:
            now_ns = connection.now_ns
            self._take(raw, now_ns, connection.wall_ns)
        else:
            now_ns = time.monotonic_ns()
            if now_ns - connection.last_frame_ns < ALIVE_NS:
                self._publish(self._source.tick(now_ns), now_ns)
        if now_ns >= self._check_ns:
            self._check_ns = now_ns + CHECK_NS
            self._check(connection, now_ns)

    def _patience_s(self) -> float:
        """How long to wait for a frame: until something is due."""
        until_ns = min(self._source.due_ns() or self._check_ns, self._check_ns)
        return (until_ns - time.monotonic_ns()) / 1e9

    def _take(self, raw: bytes, now_ns: int, wall_ns: int) -> None:
        self._frames += 1
        try:
            items = self._parser.parse(raw, wall_ns)
        except BadMessage as error:
            self._bury(raw, str(error), wall_ns)
            return
        for item in items:
            if isinstance(item, _DATA):
                was_live = self._source.is_live
                try:
                    outputs = self._source.take(item, now_ns)
                except BadMessage as error:
                    self._bury(raw, str(error), wall_ns)
                    continue
                self._publish(outputs, now_ns)
                self._data_ns = now_ns
                if isinstance(item, OrderBook):
                    self.silence.note(item.market, now_ns)
                if not was_live:
                    self._on_flowing()
            else:
                self._take_other(item, raw, wall_ns)

    def _publish(self, outputs: list[Output], now_ns: int) -> None:
        """Publish market data; heartbeats among them are not kept waiting."""
        if outputs:
            self._outlet.publish(outputs)
            if not outputs[0].key:
                self._outlet.push(now_ns)

    def _take_other(self, item: ExchangeError | Unusable | Status, raw: bytes, wall_ns: int) -> None:
        if isinstance(item, ExchangeError):
            self._bury(raw, f"the exchange refused: {item.name} {item.text}", wall_ns)
            self._say("refused", f"{item.name}: {item.text}")
        elif isinstance(item, Unusable):
            self._bury(item.raw, item.reason, wall_ns)

    def _on_flowing(self) -> None:
        """Data flow again: name the hole and fetch its trades."""
        self._backoff.reset()
        for stretch in self._source.holes():
            text = f"market data of [{stretch.from_ms}, {stretch.to_ms}) are incomplete"
            self._say("hole", text)
            self._say("recovered", "data flow again")
            self._backfills.append(self._pool.submit(self._fetch, self._source, stretch))

    def _fetch(self, source: Source, stretch: Stretch) -> None:
        """In a thread of its own: a long hole takes many calls."""
        backfill = Backfill(self._quotation, EXCHANGE, SOURCE, source.session)
        for trade in backfill.trades(source.markets, stretch, self._stop):
            self._missed.put(trade)

    # --- now and then ---------------------------------------------------------------------------------------------

    def _check(self, connection: Connection, now_ns: int) -> None:
        self._check_life(connection, now_ns)
        if (markets := self._described.result(now_ns)) is not None:
            for market in markets:
                self._outlet.send("markets", key_of(EXCHANGE, market.market), market)
                if market.is_delisted:
                    self.silence.leave_out(market.market)
        for done in [future for future in self._backfills if future.done()]:
            self._backfills.remove(done)
            outcome(done)
        if self._source.is_live and (count := min(self._missed.qsize(), MISSED_AT_ONCE)):
            self._outlet.publish(self._source.backfill([self._missed.get() for _ in range(count)]))
        if self._is_asking and (status := self._status.result(now_ns)) is not None:
            self._on_status(status, now_ns)
        if self._ended_ns and now_ns - max(self._ended_ns, self._data_ns) > CHECK_NS * 10:
            self._finish()

    def _check_life(self, connection: Connection, now_ns: int) -> None:
        """Ping a quiet connection; give up one that hangs, or that lives but brings nothing."""
        stale_ns = int(self._settings.feed.stale_seconds * 1e9)
        quiet_ns = now_ns - connection.last_frame_ns
        if quiet_ns > stale_ns or (now_ns - self._data_ns > QUIET_FACTOR * stale_ns and not self._ended_ns):
            text = f"nothing came for {self._settings.feed.stale_seconds:g} s"
            self._say("stale", text)
            raise ExchangeUnavailable(text)
        if quiet_ns > PING_NS and now_ns - self._ping_ns > PING_NS:
            self._ping_ns = now_ns
            connection.ping()

    def _on_status(self, status: SandboxStatus, now_ns: int) -> None:
        if status.is_warm and self._settings.feed.kind == "synthetic":
            self._is_asking = False
            self._say("warm", "the synthetic market runs at its live pace")
            self._outlet.send("controls", "*", Warmed(event_ms=status.warm_ms or status.exchange_ms, by=PROCESS))
        if status.is_ended and not self._ended_ns:
            self._ended_ns = now_ns
            self.silence.end()

    def _finish(self) -> None:
        """The recording is over and nothing is on its way any more: close the last bins."""
        self._outlet.publish(self._source.finish())
        self._say("ended", "the recording is over")
        self._is_finished = True
        self._drop()
        self._outlet.flush(CLOSE_TIMEOUT_S)

    def _describe(self) -> list[Market]:
        assert self._chosen is not None
        endings = self._endings.of(self._chosen.markets)
        return described(self._quotation, EXCHANGE, self._chosen, endings, time.time_ns() // 1_000_000)

    # --- words ----------------------------------------------------------------------------------------------------

    def _say(self, kind: FeedKind, text: str, markets: list[str] | None = None) -> None:
        logger.log(logging.WARNING if kind in {"refused", "stale", "disconnected"} else logging.INFO, "%s", text)
        event = self._source.event(kind, text, time.monotonic_ns(), time.time_ns(), markets)
        self._outlet.publish([event])

    def _bury(self, raw: bytes, reason: str, wall_ns: int) -> None:
        self._outlet.bury(SOURCE, self._frames, raw, reason, wall_ns)


@contextlib.contextmanager
def _quoting(feed: Feed, log: Log, quotation: Quotation, stop: Event) -> Iterator[None]:
    """Ask for prices over REST beside the feed, until it ends."""
    quotes = Quotes(log, quotation, EXCHANGE, SOURCE, feed.silence.silent, feed.estimate_ms)
    thread = Thread(target=quotes.run, args=(stop,), name="quotes")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        quotes.close()


def _beginning(log: Log, stop: Event) -> Beginning | None:
    """Wait for the log and choose the session; None when told to stop before."""
    backoff = Backoff(0.2, 5.0)
    while not stop.is_set():
        try:
            return next_session(log, time.time_ns() // 1_000_000, EXCHANGE, SOURCE)
        except Retry as error:
            logger.warning("the log does not answer, trying again: %s", error)
            stop.wait(backoff.pause_s())
    return None


def _manifest(settings: Settings) -> RunManifest:
    manifest = make_manifest(
        PROCESS,
        settings.model_dump(mode="json"),
        started_ms=time.time_ns() // 1_000_000,
        root=Path(__file__).resolve().parents[2],
    )
    return RunManifest(**as_fields(manifest))


def _close(outlet: Outlet) -> None:
    try:
        outlet.close()
    except Retry as error:
        logger.warning("the last records may be missing from the log: %s", error)
