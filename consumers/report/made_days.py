"""Three recorded days in memory for `verify nightly`: the real stages behind a made market, an exchange that fills.

Called by `consumers.report.nightly` and tests. Everything is drawn from a seed. The second day's features are written
by a stage that was changed without telling anybody; on the third a source's clock is wrong for a while.
"""

import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from consumers.predict import PredictLoop
from consumers.predict import manifest_of as predict_manifest
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader
from consumers.trade.start import clock_of, ensure_default_account, parameters_of
from consumers.trade.start import manifest_of as trade_manifest
from consumers.verify.disturbed import EXCHANGE, GRID_MS, LATENESS_MS, PARTITIONS, Written, partition_for
from infra.log import Publisher, Record, Slot, publish_one, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from models.strategies.folder import load
from streams import messages as m
from streams.process import manifest_of, topic_specs
from streams.runner import FeatureLoop, options_of
from streams.topics import decode

DAY_MS = 86_400_000
FIRST_MS = 1_763_600_400_000
"""2025-11-20 10:00 in Korea."""
DAYS = ("2025-11-20", "2025-11-21", "2025-11-22")
SOURCE = "upbit"
OFF_MS = 30_000
"""How far the wrong clock is off."""
FEE = Decimal("0.0005")
_STEP_MS = 1_000


class Planted(NamedTuple):
    """What was planted, and the coordinates of the first records that it touched."""

    day: str
    places: list[str]


def market_of_day(day: int, seconds: int, markets: int, seed: int) -> list[Written]:
    """One day's raw records: books and trades of a few markets, and the heartbeats that close their bins."""
    start_ms = FIRST_MS + day * DAY_MS
    draw = random.Random(seed * 100 + day)  # noqa: S311 - a simulation
    names = [f"KRW-T{number:03d}" for number in range(markets)]
    found: list[Written] = []
    mids = {name: 10 ** draw.uniform(3, 5) for name in names}
    for second in range(seconds):
        for name in names:
            for at_ms in sorted(draw.randrange(GRID_MS) for _ in range(3)):
                mids[name] *= 1 + draw.gauss(0, 3e-4)
                event_ms = start_ms + second * GRID_MS + at_ms
                message = _message(name, mids[name], event_ms, draw, trade_id=second * 10_000 + len(found))
                topic = "orderbooks" if isinstance(message, m.OrderBook) else "trades"
                found.append(
                    Written(event_ms + 40, topic, partition_for(name), m.key_of(EXCHANGE, name), m.encode(message))
                )
    return list(_with_beats(sorted(found, key=lambda one: one.at_ms), names, start_ms))


def _with_beats(found: Sequence[Written], names: Sequence[str], start_ms: int) -> Iterator[Written]:
    """The records with the heartbeats between them, each with the number of records written until then."""
    counts: dict[tuple[str, int], int] = {}
    yield from _beats(names, start_ms, start_ms, counts)
    boundary_ms = start_ms + GRID_MS
    for one in found:
        while one.at_ms >= boundary_ms + LATENESS_MS:
            yield from _beats(names, boundary_ms + LATENESS_MS, boundary_ms, counts)
            boundary_ms += GRID_MS
        counts[one.topic, one.partition] = counts.get((one.topic, one.partition), 0) + 1
        yield one


def _message(name: str, mid: float, event_ms: int, draw: random.Random, trade_id: int) -> m.OrderBook | m.Trade:
    times = {"exchange_ms": event_ms, "received_ns": (event_ms + 30) * 1_000_000}
    common: dict[str, Any] = {"exchange": EXCHANGE, "market": name, "source": SOURCE, **times}
    session, tick = event_ms - (event_ms - FIRST_MS) % DAY_MS, mid * 1e-4
    if draw.random() < 0.4:
        is_buy, size = draw.random() < 0.5, draw.expovariate(2) + 1e-8
        return m.Trade(
            **common, session=session, trade_ms=event_ms - 20, trade_id=trade_id, price=mid, size=size, is_buy=is_buy
        )
    sizes = [[draw.expovariate(1) + 2.0 for _ in range(8)] for _ in range(2)]
    return m.OrderBook(
        **common, session=session, bid_prices=[mid - (i + 0.5) * tick for i in range(8)], bid_sizes=sizes[0],
        ask_prices=[mid + (i + 0.5) * tick for i in range(8)], ask_sizes=sizes[1],
    )  # fmt: skip


def _beats(names: Sequence[str], at_ms: int, event_ms: int, counts: dict[tuple[str, int], int]) -> Iterator[Written]:
    start_ms = event_ms - (event_ms - FIRST_MS) % DAY_MS
    for partition in range(PARTITIONS):
        mine = [name for name in names if partition_for(name) == partition]
        for topic in ("orderbooks", "trades"):
            beat = m.Heartbeat(
                exchange=EXCHANGE, source=SOURCE, session=start_ms, count=counts.get((topic, partition), 0),
                event_ms=event_ms, complete_from_ms=start_ms, markets=mine,
            )  # fmt: skip
            yield Written(at_ms, topic, partition, "", m.encode(beat))


# --- the stages, and the exchange ---------------------------------------------------------------------------------


class _ChangedPublisher:
    """The outlet of a stage that was changed: from a time on one of its features comes out a little otherwise."""

    def __init__(self, inner: Publisher, world: "MadeDays") -> None:
        self._inner = inner
        self._world = world

    def publish(self, topic: str, key: str, value: bytes, partition: int | None = None) -> None:
        """Publish, changed where it is a row of the time."""
        world = self._world
        if topic == "features" and world.changed_from_ms <= world.now_ms < world.changed_to_ms:
            row = decode(topic, value)
            if row.mid is not None:
                value = m.encode(msgspec.structs.replace(row, mid=row.mid * (1 + 1e-9)))
                world.note_changed(partition_for(row.market) if partition is None else partition)
        self._inner.publish(topic, key, value, partition)

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait for what was published."""
        self._inner.flush(timeout_s)

    def close(self) -> None:
        """Flush and let go."""
        self._inner.close()


class _ChangedLog(MemoryLog):
    """The log as the changed stage sees it."""

    world: "MadeDays"

    def publisher(self, *, linger_ms: float = 5.0) -> Any:
        """The changed outlet."""
        return _ChangedPublisher(super().publisher(linger_ms=linger_ms), self.world)


class MadeDays:
    """Three days of `seconds` each in one log; the stages start anew every day, as after a night without a market."""

    def __init__(self, home: Path, *, seconds: int, markets: int, seed: int = 7) -> None:
        self.settings = Settings.model_validate(
            {
                "home": home,
                "grid": {"window_bins": 40},
                "feed": {"kind": "synthetic", "warmup_seconds": 0},
                "paper": {"threshold_percent": "-9"},
            }
        )
        self.now_ms = FIRST_MS
        self.changed_from_ms, self.changed_to_ms = FIRST_MS + DAY_MS + seconds * 600, FIRST_MS + 2 * DAY_MS
        self.log = MemoryLog(clock_ms=lambda: self.now_ms)
        self.log.create_topics(topic_specs())
        self._books: dict[str, m.OrderBook] = {}
        self._positions: dict[Slot, int] = {}
        self._changed: list[str] = []
        self._wrong: list[str] = []
        self._fills = 0
        for day in range(len(DAYS)):
            self._run(market_of_day(day, seconds, markets, seed), wrong_from_s=seconds // 2 if day == 2 else None)

    @property
    def planted(self) -> dict[str, Planted]:
        """By what it is."""
        return {"code": Planted(DAYS[1], self._changed), "clock": Planted(DAYS[2], self._wrong)}

    def note_changed(self, partition: int) -> None:
        """The changed stage is about to write a row."""
        slot = Slot("features", partition)
        self._changed.append(f"features/{partition}/{self.log.bounds([slot])[slot][1]}")

    def _open(self) -> None:
        beside = _ChangedLog("", beside=self.log)
        beside.world = self
        self._features = FeatureLoop(beside, options_of(self.settings), poll_s=0)
        self._predict = PredictLoop.of(self.settings, self.log)
        tell = {
            "streams": manifest_of("streams", self.settings),
            "predict": predict_manifest(self.settings, self._predict.stage.served.model.id),
            "trade": trade_manifest(self.settings, load(None), self.now_ms),
        }
        for name, manifest in tell.items():
            publish_one(self.log, "manifests", name, m.encode(manifest))
        ensure_default_account(self.log, self.settings, self.now_ms)
        self._trader = Trader(self.log, Shard(), parameters_of(self.settings), clock_of(self.settings))

    def _turn(self) -> None:
        while self._features.step():
            pass
        while self._predict.step(0):
            pass
        while self._trader.step(self.now_ms, 0):
            pass
        if self._fill():
            while self._trader.step(self.now_ms, 0):
                pass

    def _run(self, records: Sequence[Written], wrong_from_s: int | None) -> None:
        publisher = self.log.publisher()
        self.now_ms = records[0].at_ms
        begin_ms = next_ms = self.now_ms
        self._open()
        for record in records:
            while record.at_ms >= next_ms + _STEP_MS:
                next_ms += _STEP_MS
                self.now_ms = next_ms
                self._turn()
            self.now_ms = record.at_ms
            wrong = wrong_from_s is not None and 0 <= record.at_ms - begin_ms - wrong_from_s * 1000 < 5_000
            publisher.publish(record.topic, record.key, self._stamped(record, is_wrong=wrong), record.partition)
        self.now_ms = next_ms + _STEP_MS
        self._turn()
        self._features.commit()
        self._predict.commit()
        self._trader.commit(self.now_ms)
        self._features.vanish()
        self._predict.close()
        self._trader.close()

    def _stamped(self, record: Written, *, is_wrong: bool) -> bytes:
        """The record; its exchange's time is half a minute early while the clock is wrong."""
        if not record.key:
            return record.value
        message = decode(record.topic, record.value)
        if isinstance(message, m.OrderBook):
            self._books[message.market] = message
        if not is_wrong or record.topic != "trades":
            return record.value
        slot = Slot(record.topic, record.partition)
        self._wrong.append(f"{record.topic}/{record.partition}/{self.log.bounds([slot])[slot][1]}")
        return m.encode(msgspec.structs.replace(message, exchange_ms=message.exchange_ms + OFF_MS))

    # --- the exchange -----------------------------------------------------------------------------------------------

    def _fill(self) -> int:
        """Fill new decisions at the newest book, one tick worse than it shows; gives their number."""
        fresh = sorted(self._new_intents(), key=lambda one: (one.append_ms, one.partition, one.offset))
        for record in fresh:
            intent = decode("order-intents", record.value)
            if isinstance(intent, m.OrderIntent) and intent.market in self._books:
                publish_one(self.log, "order-events", record.key, m.encode(self._filled(intent)))
        return len(fresh)

    def _new_intents(self) -> list[Record]:
        found: list[Record] = []
        slots = slots_of(self.log, ["order-intents"])
        reader = self.log.reader({slot: self._positions.get(slot, 0) for slot in slots})
        while records := reader.read(1_000, 0):
            found += records
        self._positions |= {slot: reader.position(slot) for slot in slots}
        reader.close()
        return found

    def _filled(self, intent: m.OrderIntent) -> m.OrderFilled:
        book = self._books[intent.market]
        is_buy = intent.side == "buy"
        best, tick = (book.ask_prices[0], 1) if is_buy else (book.bid_prices[0], -1)
        step = Decimal("0.00000001")
        price = Decimal(repr(best + tick * (book.ask_prices[0] - book.bid_prices[0]))).quantize(step)
        quantity = intent.quantity or ((intent.funds or Decimal(0)) / price).quantize(step)
        funds = price * quantity
        self._fills += 1
        return m.OrderFilled(
            account=intent.account, pocket=intent.pocket, intent_id=intent.id, uuid=f"made-{self._fills}",
            fill_id=f"fill-{self._fills}", exchange=intent.exchange, market=intent.market, side=intent.side,
            price=price, quantity=quantity, funds=funds, fee=funds * FEE, executed_quantity=quantity,
            executed_funds=funds, paid_fee=funds * FEE, is_final=True, event_ms=book.exchange_ms,
            purpose=intent.purpose, strategy=intent.strategy,
        )  # fmt: skip
