"""A small market in a views database, written by `consumers.views` itself, for the tests of the page."""

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from consumers.trade.ledgers import Position
from consumers.trade.state import Account, Day, encode
from consumers.views import Views
from infra.configuration import save
from infra.log import TopicSpec
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.tables import views as t
from streams import messages as m
from streams import topics
from streams.market.features import FEATURES, SCHEMA

BINS = 30
HORIZONS_MS = (5_000, 10_000)


class World:
    """Messages as the processes write them, into an in-memory log, and from there into the database of `home`."""

    def __init__(self, home: Path, port: int = 0) -> None:
        self.home = home
        self.settings_file = home / "settings.json"
        home.mkdir(parents=True, exist_ok=True)
        save(Settings.model_validate({"home": home, "dashboard": {"port": port}}), self.settings_file)
        self.now_ms = time.time_ns() // 1_000_000
        self.start_ms = self.now_ms // 1000 * 1000 - BINS * 1000
        self._log = MemoryLog(clock_ms=lambda: time.time_ns() // 1_000_000)
        self._log.create_topics([TopicSpec(one.name, one.partitions, one.config) for one in topics.TOPICS.values()])
        self._publisher = self._log.publisher()
        self._views: Views | None = None

    def put(self, topic: str, message: m.Message, key: str = "upbit:KRW-BTC") -> None:
        self._publisher.publish(topic, key, m.encode(message))

    def sync(self) -> None:
        """Write all that came into the database."""
        if self._views is None:
            self._views = Views(self._log, t.open_views(t.path_of(self.home)))
        while self._views.read(0.0):
            pass
        self._views.write()

    def stop_views(self) -> None:
        """As if `consumers.views` had ended; the next `sync` starts it again."""
        if self._views is not None:
            self._views.close()
            self._views = None

    def close(self) -> None:
        self.stop_views()
        self._log.close()

    def market(self, market: str, korean: str, english: str, tick: str, *, is_caution: bool = False) -> None:
        self.put(
            "markets",
            m.Market(
                exchange="upbit", market=market, event_ms=self.start_ms, tick_size=Decimal(tick),
                minimum_total=Decimal(5000), maximum_total=Decimal(10**9), korean_name=korean, english_name=english,
                is_caution=is_caution,
            ),
            f"upbit:{market}",
        )  # fmt: skip

    def book(self, bid: float, tick: float, market: str = "KRW-BTC", at_ms: int | None = None) -> None:
        self.put(
            "orderbooks",
            m.OrderBook(
                exchange="upbit", market=market, source="upbit-0", session=1, exchange_ms=at_ms or self.now_ms,
                received_ns=0, bid_prices=[bid - i * tick for i in range(15)], bid_sizes=[0.5 + i for i in range(15)],
                ask_prices=[bid + (i + 1) * tick for i in range(15)], ask_sizes=[0.25 + i for i in range(15)],
            ),
            f"upbit:{market}",
        )  # fmt: skip

    def trade(self, trade_id: int, price: float, market: str = "KRW-BTC", *, is_buy: bool = True) -> None:
        self.put(
            "trades",
            m.Trade(
                exchange="upbit", market=market, source="upbit-0", session=1, exchange_ms=self.now_ms,
                trade_ms=self.now_ms, received_ns=0, trade_id=trade_id, price=price, size=0.01234, is_buy=is_buy,
            ),
            f"upbit:{market}",
        )  # fmt: skip

    def features(self, bin_ms: int, mid: float, market: str = "KRW-BTC", schema: str = SCHEMA) -> None:
        values: list[float | None] = [12.34 if spec.unit == "bp" else 0.5 for spec in FEATURES]
        self.put(
            "features",
            m.Features(
                exchange="upbit", market=market, bin_ms=bin_ms, grid_ms=1000, schema=schema, source="upbit-0",
                session=1, n_bins=300, n_books=5, n_trades=1, mid=mid, spread=1000.0, values=[*values[:-1], None],
                levels=[], accumulators=[],
            ),
            f"upbit:{market}",
        )  # fmt: skip

    def signal(self, bin_ms: int, horizon_ms: int, expected_bp: float, mid: float, *, is_licensed: bool = True) -> None:
        self.put(
            "signals",
            m.Signal(
                id=m.signal_id("upbit", "KRW-BTC", bin_ms, horizon_ms, "linear-1", SCHEMA), exchange="upbit",
                market="KRW-BTC", bin_ms=bin_ms, horizon_ms=horizon_ms, schema=SCHEMA, model_id="linear-1",
                expected_bp=expected_bp, sigma_bp=7.4, mid=mid, is_licensed=is_licensed, feed="synthetic",
            ),
        )  # fmt: skip

    def intent(self, intent_id: str, side: m.Side, purpose: m.Purpose) -> None:
        self.put(
            "order-intents",
            m.OrderIntent(
                id=intent_id, account="paper", pocket="paper-main", exchange="upbit", market="KRW-BTC", side=side,
                order_type="price" if side == "buy" else "market", price=None,
                quantity=None if side == "buy" else Decimal("0.00003951"),
                funds=Decimal(6000) if side == "buy" else None, time_in_force="", purpose=purpose,
                cause_kind="signal", cause_id="s", event_ms=self.now_ms, expires_ms=self.now_ms + 5000, reason="edge",
            ),
            "paper-main",
        )  # fmt: skip

    def ended(self, intent_id: str, quantity: str = "0", funds: str = "0", fee: str = "0") -> None:
        self.put(
            "order-events",
            m.OrderCancelled(
                account="paper", pocket="paper-main", intent_id=intent_id, uuid="u", event_ms=self.now_ms,
                executed_quantity=Decimal(quantity), executed_funds=Decimal(funds), paid_fee=Decimal(fee),
            ),
            "paper-main",
        )  # fmt: skip

    def rejected(self, intent_id: str, text: str) -> None:
        self.put(
            "order-events",
            m.OrderRejected(
                account="paper", pocket="paper-main", intent_id=intent_id, attempt=1, name="refused", text=text,
                event_ms=self.now_ms,
            ),
            "paper-main",
        )  # fmt: skip

    def account(self, **changes: object) -> None:
        settings = m.AccountSettings(
            account="paper", pocket="paper-main", venue="paper", is_trading=True, budget=Decimal(1_000_000),
            entry_funds=Decimal(6000), threshold_percent=Decimal("0.05"), fee_percent=Decimal("0.05"),
            stop_percent=Decimal("1.5"), hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
        )  # fmt: skip
        held = Position(
            exchange="upbit", market="KRW-BTC", entry_intent="i1", opened_ms=self.now_ms, due_ms=self.now_ms + 10_000,
            horizon_ms=10_000, quantity=Decimal("0.00003951"), funds=Decimal("5998.7"), cost=Decimal("6001.7"),
        )  # fmt: skip
        day = Day(
            day="2026-11-21", forecasts=29_238, entries=11, exits=8, refusals={"below-cost": 1383, "own-word": 2},
            best_expected_bp=31.84, best_needed_bp=17.42, best_market="KRW-BTC",
        )  # fmt: skip
        account = Account(settings=settings, is_trading=True, realised=Decimal("-1234.5"), paid_fees=Decimal("57.1"))
        account.positions["upbit:KRW-BTC"] = held
        account.day = day
        for name, value in changes.items():
            setattr(account, name, value)
        state = m.AccountState(
            account="paper", state=msgspec.Raw(encode(account)), cursor={}, event_ms=self.now_ms
        )  # fmt: skip
        self.put("account-states", state, "paper")

    def balance(self, currency: str, available: str, average: str = "0") -> None:
        self.put(
            "balances",
            m.Balance(
                pocket="paper-main", currency=currency, available=Decimal(available), locked=Decimal(0),
                average_price=Decimal(average), event_ms=self.now_ms,
            ),
            "paper-main",
        )  # fmt: skip

    def connected(self, text: str = "2 markets") -> None:
        event = m.FeedEvent(
            exchange="upbit", source="upbit", session=1, kind="connected", event_ms=self.now_ms,
            received_ns=self.now_ms * 1_000_000, text=text, markets=[],
        )  # fmt: skip
        self.put("feed-events", event, "")

    def fill(self) -> "World":
        """One of each."""
        self.market("KRW-BTC", "비트코인", "Bitcoin", "1000")
        self.market("KRW-PEPE", "페페", "Pepe", "0.00001", is_caution=True)
        self.book(152_249_000.0, 1000.0)
        self.book(0.01234, 0.00001, "KRW-PEPE")
        self.trade(1, 152_258_000.0)
        self.trade(2, 152_235_000.0, is_buy=False)
        for i in range(BINS + 1):
            bin_ms, mid = self.start_ms + 1000 * i, 152_249_500.0 + 5000 * (i % 7)
            self.features(bin_ms, mid)
            for horizon_ms in HORIZONS_MS:
                self.signal(bin_ms, horizon_ms, 2.1 * (3 - i % 7), mid, is_licensed=horizon_ms == HORIZONS_MS[0])
        self.features(self.now_ms // 1000 * 1000, 0.012345, "KRW-PEPE")
        self.intent("i1", "buy", "entry")
        self.ended("i1", "0.00003951", "5998.7", "2.99937388")
        self.intent("i2", "sell", "protective-exit")
        self.rejected("i2", "<b>no</b>")
        self.account()
        self.balance("KRW", "9993998.3")
        self.balance("BTC", "0.00003951", "151824000")
        self.balance("ETH", "0")
        self.connected()
        self.sync()
        return self


@pytest.fixture
def open_world(tmp_path: Path) -> Iterator[Callable[[int], World]]:
    """Open a world whose page has a port."""
    opened: list[World] = []

    def open_one(port: int) -> World:
        opened.append(World(tmp_path / "home", port))
        return opened[-1]

    yield open_one
    for world in opened:
        world.close()


@pytest.fixture
def world(open_world: Callable[[int], World]) -> World:
    """An empty world."""
    return open_world(8501)
