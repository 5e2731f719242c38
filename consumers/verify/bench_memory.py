"""`observator bench memory`: does any process keep more than it should, over millions of records?

Order books and trades with advancing times go into the topics at ten times live speed in place of the feed (Faust: the
real feed at live speed), while one session of the page refreshes and the API is asked. Each process's own memory is
sampled; the slope over the records that the stage has read, after the first fifth, is given with its 95 % interval. At
live speed that is after the first half: until then the markets' runs of W bins fill.
"""

import threading
import time
from typing import Any

from consumers.verify.api_client import ask
from consumers.verify.deployment import Deployment, deployment, settle
from consumers.verify.disturbed import EXCHANGE, PARTITIONS, partition_for
from consumers.verify.page_reader import PageReader
from consumers.verify.processes import wait_until
from infra.figures import result_of, slope_of
from infra.kafka import KafkaLog
from streams.messages import Heartbeat, OrderBook, Trade, encode, key_of

_LIMIT_MB = 1.0
_MARKETS = 250
_LIVE_RATE = 1_250
_INPUTS = ["orderbooks", "trades"]
_DRAIN_S = 300


class Load(threading.Thread):
    """Writes books and trades of `_MARKETS` markets with their heartbeats at a rate; event time advances with it."""

    def __init__(self, bootstrap: str, records: int, rate: float) -> None:
        super().__init__(daemon=True)
        self._log = KafkaLog(bootstrap)
        self._records = records
        self._rate = rate
        self.written = 0
        self.error: Exception | None = None

    def run(self) -> None:
        """Write second after second of market time (`_LIVE_RATE` records each), paced by the rate."""
        publisher = self._log.publisher(linger_ms=5)
        markets = [f"KRW-M{number:03d}" for number in range(_MARKETS)]
        places = [(key_of(EXCHANGE, market), partition_for(market)) for market in markets]
        session = time.time_ns() // 1_000_000
        at_ms = first_ms = session // 1000 * 1000
        counts = {(topic, p): 0 for topic in ("orderbooks", "trades") for p in range(PARTITIONS)}
        started = time.monotonic()
        try:
            self._beat(publisher, markets, counts, session, first_ms, first_ms)
            while self.written < self._records:
                for number in range(_LIVE_RATE):
                    market, (key, partition) = markets[number % _MARKETS], places[number % _MARKETS]
                    event_ms = at_ms + number * 1000 // _LIVE_RATE
                    is_trade = number >= 4 * _MARKETS
                    topic = "trades" if is_trade else "orderbooks"
                    value = (_trade if is_trade else _book)(market, session, event_ms, number)
                    publisher.publish(topic, key, value, partition)
                    counts[topic, partition] += 1
                    self.written += 1
                at_ms += 1000
                self._beat(publisher, markets, counts, session, at_ms, first_ms)
                time.sleep(max(0.0, started + self.written / self._rate - time.monotonic()))
            publisher.flush(60)
        except Exception as error:  # noqa: BLE001 outermost of a thread: the bench raises it
            self.error = error
        finally:
            self._log.close()

    @staticmethod
    def _beat(
        publisher: Any, markets: list[str], counts: dict[tuple[str, int], int], session: int, at_ms: int, first_ms: int
    ) -> None:
        for (topic, partition), count in counts.items():
            beat = Heartbeat(
                exchange=EXCHANGE,
                source="load",
                session=session,
                count=count,
                event_ms=at_ms,
                complete_from_ms=first_ms,
                markets=[market for market in markets if partition_for(market) == partition],
            )
            publisher.publish(topic, "", encode(beat), partition)


class LiveLoad(threading.Thread):
    """The real feed on the sandbox's synthetic market at live speed: only counts what it writes."""

    def __init__(self, running: Deployment, records: int) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._records = records
        self.written = 0
        self.error: Exception | None = None

    def run(self) -> None:
        """Wait until the records have come."""
        try:
            while self.written < self._records:
                time.sleep(1.0)
                self.written = self._running.count("orderbooks") + self._running.count("trades")
        except Exception as error:  # noqa: BLE001 outermost of a thread: the bench raises it
            self.error = error


def _book(market: str, session: int, event_ms: int, number: int) -> bytes:
    bid = 50_000.0 + (event_ms // 1000 * 7919 + number) % 100
    return encode(
        OrderBook(
            exchange=EXCHANGE,
            market=market,
            source="load",
            session=session,
            exchange_ms=event_ms,
            received_ns=event_ms * 1_000_000,
            bid_prices=[bid - i for i in range(15)],
            bid_sizes=[0.5 + i + number % 7 for i in range(15)],
            ask_prices=[bid + 1 + i for i in range(15)],
            ask_sizes=[0.5 + i + number % 5 for i in range(15)],
        )
    )


def _trade(market: str, session: int, event_ms: int, number: int) -> bytes:
    return encode(
        Trade(
            exchange=EXCHANGE,
            market=market,
            source="load",
            session=session,
            exchange_ms=event_ms,
            trade_ms=event_ms,
            received_ns=event_ms * 1_000_000,
            trade_id=event_ms * 10_000 + number,
            price=50_000.0,
            size=0.1,
            is_buy=number % 2 == 0,
        )
    )


def bench_memory(*, quick: bool = False) -> dict[str, object]:
    """Feed both runners; passes where the interval of every slope lies under the limit."""
    plans = (("loop", 60_000, 12_500),) if quick else (("loop", 5_000_000, 12_500), ("faust", 1_000_000, 1_250))
    figures: dict[str, float] = {}
    is_met = True
    for runner, records, rate in plans:
        found = _feed(runner, records, rate)
        figures |= found
        slopes = [value for name, value in found.items() if name.endswith("MB per million, upper")]
        is_met = is_met and (quick or all(slope <= _LIMIT_MB for slope in slopes))
    return result_of("memory", figures, {"quick": quick, "markets": _MARKETS, "levels": 15}, passed=is_met)


def _feed(runner: str, records: int, rate: float) -> dict[str, float]:
    is_fed = rate <= _LIVE_RATE
    feed = {"kind": "synthetic", "market_count": _MARKETS if is_fed else 1, "warmup_seconds": 0}
    described = {"feed": feed, "streams": {"runner": runner}}
    names = ["sandbox", "streams", "predict", "trade", "execute", "views", "archive", "page", "api"]
    with deployment(described) as running:
        running.start(*names)
        page = PageReader(running.settings.dashboard.port)
        page.start()
        settle(running, "manifests", 6, 180)  # all but sandbox, page and api say what they run with when they begin
        wait_until(lambda: page.refreshes > 0 or page.error is not None, 90, "the page")
        wait_until(lambda: ask(running.settings.home, "/health")[0] == 200, 90, "the API")
        if is_fed:
            names.append("feed")
            running.start("feed")
        load = LiveLoad(running, records) if is_fed else Load(running.broker.bootstrap, records, rate)
        load.start()
        started = time.monotonic()
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        answers = 0
        every_s = 2.0 if records > 100_000 else 0.5
        while load.is_alive():
            time.sleep(every_s)
            answers += _sample(running, load, page, samples)
        figures: dict[str, float] = {f"{runner}: records": load.written}
        figures[f"{runner}: records per second"] = round(load.written / (time.monotonic() - started))
        if is_fed:
            running.children.stop("feed")
        figures[f"{runner}: lag at the end"] = running.lag("features", _INPUTS)
        ended = time.monotonic()
        while running.lag("features", _INPUTS) and time.monotonic() - ended < _DRAIN_S:
            time.sleep(every_s)
            answers += _sample(running, load, page, samples)
        figures[f"{runner}: seconds to drain"] = round(time.monotonic() - ended, 1)
        figures[f"{runner}: feature rows"] = running.count("features")
        page.close()
        figures[f"{runner}: refreshes of the page"] = page.refreshes
        figures[f"{runner}: answers of the API"] = answers
    return figures | _growth(runner, samples, records / (2e6 if is_fed else 5e6))


def _sample(
    running: Deployment, load: Load | LiveLoad, page: PageReader, samples: dict[str, list[tuple[float, float]]]
) -> int:
    """Add to each process's samples: millions of records that the stage has read so far, and MB.

    Asks the API before; returns how many answers came.
    """
    running.children.require_alive()
    if error := load.error or page.error:
        raise error
    token = (running.settings.home / "run" / "secrets" / "api-token").read_text().strip()
    status, _ = ask(running.settings.home, "/accounts", {"Authorization": f"Bearer {token}"})
    read = max(0, load.written - running.lag("features", _INPUTS))
    for name, points in samples.items():
        if running.children.is_alive(name):  # the feed is stopped before the rest is read
            points.append((read / 1e6, running.own_memory_mb(name)))
    return int(status == 200)


def _growth(runner: str, samples: dict[str, list[tuple[float, float]]], after_millions: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, points in samples.items():
        slope, error = slope_of([point for point in points if point[0] >= after_millions])
        for fifth in range(1, 6):  # tells a step from a slope
            reached = [mb for read, mb in points if read <= points[-1][0] * fifth / 5]
            figures[f"{runner}, {name}: MB after {fifth} fifths"] = round(reached[-1], 1)
        figures[f"{runner}, {name}: MB per million records"] = round(slope, 3)
        figures[f"{runner}, {name}: MB per million, lower"] = round(slope - 1.96 * error, 3)
        figures[f"{runner}, {name}: MB per million, upper"] = round(slope + 1.96 * error, 3)
    return figures
