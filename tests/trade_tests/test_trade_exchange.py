"""Trade and the executor against the real sandbox exchange: a take profit that rests, is taken back, and is filled."""

import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from consumers.execute.attempts import Rules
from consumers.execute.executor import run_executor
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.options import Options, manifest_of
from consumers.trade.inputs import read_to_end
from consumers.trade.ledgers import Order, Position
from consumers.trade.replay import Shard, replay
from consumers.trade.runner import Trader
from consumers.trade.state import Account, Parameters
from infra.log import TopicSpec, slots_of
from infra.memory_log import MemoryLog
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from producers.upbit.feed import run as run_feed
from streams import messages as m
from streams import topics
from streams.market.ticks import E8, e8_of, tick_e8

PARAMETERS = Parameters(entry_expiry_ms=60_000)
RULES = Rules(longest_flight_s=0.5, settle_margin_s=0.1, look_up_every_s=0.05, sweep_every_s=0.2)


def now() -> int:
    return time.time_ns() // 1_000_000


class Way:
    """One account on the way from forecast to exchange and back; the executor runs in a thread, trade is stepped."""

    def __init__(self, home: Path, sandbox: SandboxThread, make: SimpleNamespace, exits: m.ExitRules) -> None:
        self.log = MemoryLog(clock_ms=now)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.sandbox, self.make = sandbox, make
        self.market = str(sandbox.control("GET", "/v1/market/all")[0]["market"])
        self.key = m.key_of("upbit", self.market)
        key = ExchangeKey(sandbox.access_key, sandbox.secret_key)
        options = Options(
            home=home, address=sandbox.url, keys=HeldKeys({"paper-main": key}), pocket="paper-main", rules=RULES
        )  # fmt: skip
        self.stop = threading.Event()
        manifest = manifest_of(Settings(home=home))
        self.thread = threading.Thread(
            target=run_executor, args=(options, self.log, self.stop), kwargs={"manifest": manifest}
        )
        self.thread.start()
        tick = Decimal(tick_e8(self.market, e8_of(self.book()["ask_price"]), now())) / E8
        self.send("controls", self.settings(exits=exits))
        self.send("markets", make.market(str(tick), self.market))
        self.trader = Trader(self.log, Shard(), PARAMETERS)

    def settings(self, **changes: Any) -> m.AccountSettings:
        """Only the rules under test end a position."""
        settings: m.AccountSettings = self.make.settings(
            entry_funds=Decimal(50_000), horizons_ms=[5000], hysteresis_percent=Decimal(-100),
            **{"stop_percent": Decimal(50), **changes},
        )  # fmt: skip
        return settings

    def send(self, topic: str, message: m.Message) -> None:
        publisher = self.log.publisher()
        publisher.publish(topic, "paper-main", m.encode(message))
        publisher.close()

    def book(self) -> Any:
        (book,) = self.sandbox.control("GET", f"/v1/orderbook?markets={self.market}")
        return book["orderbook_units"][0]

    def bin(self, expected_bp: float | None = None, rise: float = 1.0) -> None:
        """A book as the exchange shows it now, or higher, and perhaps a forecast."""
        bin_ms = now()
        best = {side: price * rise for side, price in self.book().items()}
        mid = (best["bid_price"] + best["ask_price"]) / 2
        levels = [best["bid_price"], *[None] * 4, 1e9, *[None] * 4, best["ask_price"], *[None] * 4, 1e9, *[None] * 4]
        self.send("features", self.make.features(bin_ms, mid, self.market, levels=levels))
        if expected_bp is not None:
            self.send("signals", self.make.signal(bin_ms, 5000, expected_bp, self.market))

    @property
    def account(self) -> Account:
        return self.trader.fold.state.accounts["paper"]

    @property
    def position(self) -> Position | None:
        return self.account.positions.get(self.key)

    @property
    def resting(self) -> Order | None:
        return self.account.orders.get(self.position.resting) if self.position is not None else None

    def until(self, check: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, f"it did not come about in time: {self.told()}"
            self.bin()
            self.trader.step(now(), 0.05)

    def wait(self, check: Callable[[], bool], seconds: float = 60.0) -> None:
        """As `until`, with a feed that brings nothing."""
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, f"it did not come about in time: {self.told()}"
            self.trader.step(now(), 0.05)

    def count(self, topic: str) -> int:
        """Records of a topic."""
        return sum(end for _, end in self.log.bounds(slots_of(self.log, [topic])).values())

    def intents(self) -> list[m.OrderIntent]:
        """What trade has ordered."""
        records = read_to_end(self.log, slots_of(self.log, ["order-intents"]))
        return [topics.decode("order-intents", record.value) for record in records]

    def told(self) -> list[str]:
        """The orders, and why there is none: for whoever reads a failure."""
        orders = [f"{one.side} {one.price} {one.state}" for one in self.account.orders.values()]
        return [*orders, *self.account.reasons.values(), str(self.account.positions)]

    def enter(self) -> None:
        self.trader.step(now(), 0.05)
        self.bin(5000.0)
        self.until(lambda: self.resting is not None and self.resting.state == "accepted")

    def close(self) -> None:
        self.stop.set()
        self.thread.join(20)
        self.trader.close()
        assert not self.thread.is_alive()


def test_a_resting_take_profit_is_taken_back_before_everything_is_sold(tmp_path: Path, make: SimpleNamespace) -> None:
    exits = m.ExitRules(take_profit_percent=Decimal(40), is_take_profit_resting=True, time_stop_ms=600_000)
    with SandboxThread(
        tmp_path, kind="synthetic", plan=Plan(market_count=1), warmup_seconds=0, is_limited=False
    ) as sandbox:
        way = Way(tmp_path, sandbox, make, exits)
        try:
            way.enter()
            order, position = way.resting, way.position
            assert order is not None
            assert position is not None
            bought = position.quantity
            assert position.average_price * Decimal("1.4") <= (order.price or 0)
            (there,) = [one for one in sandbox.truth() if one["state"] == "wait"]
            assert (Decimal(there["price"]), Decimal(there["volume"])) == (order.price, bought)
            way.send("controls", m.Halt(account="paper", kind="sell-all", event_ms=now(), by="t"))
            way.until(lambda: not way.account.positions)
            # a market buy ends in `cancel` with its dust
            states = [(one["side"], one["ord_type"], one["state"]) for one in sandbox.truth()]
            assert sorted(states) == [("ask", "limit", "cancel"), ("ask", "market", "done"), ("bid", "price", "cancel")]
            assert not way.account.is_ledger_broken
            assert way.account.rests == {}
            sold = [Decimal(one["executed_volume"]) for one in sandbox.truth() if one["side"] == "ask"]
            assert sum(sold) == bought
        finally:
            way.close()


def test_a_stop_fires_over_rest_while_the_stream_is_frozen(tmp_path: Path, make: SimpleNamespace) -> None:
    """The real feed, exchange and executor; the feed's last book stands above the stop, the exchange's below it."""
    exits = m.ExitRules(time_stop_ms=600_000)
    with SandboxThread(
        tmp_path, kind="synthetic", plan=Plan(market_count=1), warmup_seconds=0, is_limited=False
    ) as sandbox:
        way = Way(tmp_path, sandbox, make, exits)
        settings = Settings.model_validate(
            {"home": tmp_path, "sandbox": {"port": sandbox.port}, "feed": {"stale_seconds": 1.0, "warmup_seconds": 0}}
        )
        parameters = Parameters(entry_expiry_ms=60_000, stale_feed_ms=1_000)
        way.trader = Trader(way.log, Shard(), parameters)
        feed = threading.Thread(target=run_feed, args=(settings, way.log, way.stop))
        feed.start()
        try:
            way.trader.step(now(), 0.05)
            way.bin(5000.0)
            way.until(lambda: way.position is not None and way.position.quantity > 0)
            assert way.position is not None
            bought = way.position.quantity
            asked = way.count("quotes")  # on a busy machine the feed may have been late before
            assert way.count("orderbooks") > 0
            sandbox.fault("freeze-feed", seconds=60)
            way.bin(rise=1.02)
            way.send("controls", way.settings(exits=exits, stop_percent=Decimal("0.001")))
            way.wait(lambda: not way.account.positions)
            assert way.count("quotes") > asked
            (sale,) = [one for one in way.intents() if one.side == "sell"]
            assert (sale.cause_kind, sale.purpose) == ("stop", "protective-exit")
            (there,) = [one for one in sandbox.truth() if one["side"] == "ask"]
            assert (there["state"], Decimal(there["executed_volume"])) == ("done", bought)
            again = [one for one in replay(way.log, parameters) if isinstance(one, m.OrderIntent)]
            assert again == way.intents()
        finally:
            way.close()
            feed.join(20)


def test_a_resting_take_profit_follows_its_rule_and_outlives_trade(tmp_path: Path, make: SimpleNamespace) -> None:
    def exits(percent: int) -> m.ExitRules:
        return m.ExitRules(take_profit_percent=Decimal(percent), is_take_profit_resting=True, time_stop_ms=600_000)

    with SandboxThread(
        tmp_path, kind="synthetic", plan=Plan(market_count=1), warmup_seconds=0, is_limited=False
    ) as sandbox:
        way = Way(tmp_path, sandbox, make, exits(40))
        try:
            way.enter()
            first = way.resting
            assert first is not None
            way.send("controls", way.settings(exits=exits(30)))
            way.until(lambda: way.account.orders[first.intent_id].state == "cancelled")
            way.trader = Trader(way.log, Shard(), PARAMETERS)
            way.until(lambda: way.resting is not None and way.resting.state == "accepted")
            second, position = way.resting, way.position
            assert second is not None
            assert position is not None
            assert (second.price or 0) < (first.price or 0)
            (there,) = [one for one in sandbox.truth() if one["state"] == "wait"]
            assert (Decimal(there["price"]), Decimal(there["volume"])) == (second.price, position.quantity)
        finally:
            way.close()
