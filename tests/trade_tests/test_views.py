import math
import random
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine
from sqlmodel import Session, text

from consumers import views
from consumers.trade.ledgers import Rest
from consumers.trade.reasons import WORDS, Reason
from consumers.trade.replay import Shard
from consumers.trade.runner import Trader
from consumers.trade.state import Account, Parameters, Shadow, encode
from consumers.views import Views
from infra.errors import LogUnavailable
from infra.log import Reader, Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.settings import Settings
from infra.tables import view_questions as questions
from infra.tables import views as t
from streams import messages as m
from streams import topics

T0 = 1_700_000_000_000
KEY = "upbit:KRW-BTC"


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog(clock_ms=lambda: T0)
    log.create_topics([TopicSpec(one.name, one.partitions, one.config) for one in topics.TOPICS.values()])
    return log


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = t.open_views(tmp_path / "views.sqlite")
    yield engine
    engine.dispose()


def publish(log: MemoryLog, topic: str, message: m.Message, key: str = KEY) -> None:
    log.publisher().publish(topic, key, m.encode(message))


def book(exchange_ms: int, bid: float = 99_995.0, market: str = "KRW-BTC") -> m.OrderBook:
    return m.OrderBook(
        exchange="upbit", market=market, source="upbit-0", session=1, exchange_ms=exchange_ms, received_ns=0,
        bid_prices=[bid, bid - 10], bid_sizes=[1.0, 2.0], ask_prices=[bid + 10], ask_sizes=[3.0],
    )  # fmt: skip


def trade(trade_id: int, market: str = "KRW-BTC") -> m.Trade:
    return m.Trade(
        exchange="upbit", market=market, source="upbit-0", session=1, exchange_ms=T0 + trade_id, trade_ms=T0,
        received_ns=0, trade_id=trade_id, price=100_000.0, size=0.5, is_buy=True,
    )  # fmt: skip


def heartbeat() -> m.Heartbeat:
    return m.Heartbeat(
        exchange="upbit", source="upbit-0", session=1, count=1, event_ms=T0, complete_from_ms=T0, markets=["KRW-BTC"]
    )


def sync(log: MemoryLog, engine: Engine) -> Views:
    kept = Views(log, engine)
    while kept.read(0.0):
        pass
    kept.write()
    return kept


def dump(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for name, table in t.ViewTable.metadata.tables.items()
        }


def one_of_each(log: MemoryLog, make: SimpleNamespace) -> m.OrderIntent:
    """A small run: market data, two bins, an entry and its fill, snapshots by trade itself."""
    publish(log, "controls", make.settings(), "paper")
    publish(
        log,
        "markets",
        m.Market(
            exchange="upbit", market="KRW-BTC", event_ms=T0, tick_size=Decimal(10), minimum_total=Decimal(5000),
            maximum_total=Decimal(10**9), korean_name="비트코인", english_name="Bitcoin",
        ),
    )  # fmt: skip
    publish(log, "orderbooks", book(T0 - 100, 1.0))
    publish(log, "orderbooks", book(T0))
    log.publisher().publish("orderbooks", "", m.encode(heartbeat()), 0)
    for trade_id in range(3):
        publish(log, "trades", trade(trade_id))
    publish(
        log,
        "feed-events",
        m.FeedEvent(
            exchange="upbit", source="upbit-0", session=1, kind="connected", event_ms=T0, received_ns=1, text="x",
            markets=["KRW-BTC"],
        ),
        "",
    )  # fmt: skip
    trader = Trader(log, Shard(), Parameters())
    for bin_ms, mid, expected in ((T0, 100_000.0, 50.0), (T0 + 5000, 100_100.0, 1.0)):
        publish(log, "features", make.features(bin_ms, mid))
        for horizon in (5000, 10000):
            publish(log, "signals", make.signal(bin_ms, horizon, expected))
        trader.step(T0 + 700, 0.0)
    record = log.reader({Slot("order-intents", p): 0 for p in range(12)}).read(10, 0.0)[0]
    intent: m.OrderIntent = topics.decode("order-intents", record.value)
    common = {"account": "paper", "pocket": "paper-main", "intent_id": intent.id, "attempt": 1, "event_ms": T0 + 800}
    publish(log, "order-events", m.OrderSent(**common, identifier="ob-1"), intent.pocket)
    publish(log, "order-events", m.OrderAccepted(**common, identifier="ob-1", uuid="u"), intent.pocket)
    publish(log, "order-events", make.filled(intent, "0.0599", "100010", T0 + 900), intent.pocket)
    balance = m.Balance(
        pocket="paper-main", currency="KRW", available=Decimal("1E+7"), locked=Decimal(0), average_price=Decimal(0),
        event_ms=T0,
    )  # fmt: skip
    publish(log, "balances", balance, "paper-main")
    trader.step(T0 + 1900, 0.0)
    trader.step(T0 + 2900, 0.0)
    trader.commit(T0 + 2900)
    return intent


def test_pages_get_answers(log: MemoryLog, engine: Engine, make: SimpleNamespace) -> None:
    intent = one_of_each(log, make)
    sync(log, engine)
    with Session(engine) as session:
        (market,) = questions.latest_markets(session)
        assert (market["mid"], market["bid"], market["ask"], market["n_bins"]) == (100_100.0, 99_995.0, 100_005.0, 300)
        assert (market["features"], market["korean_name"]) == ([0.5, None], "비트코인")
        found = questions.latest_book(session, "KRW-BTC")
        assert found is not None
        assert found["levels"]["bid_prices"] == [99_995.0, 99_985.0]
        assert questions.latest_book(session, "KRW-ETH") is None
        assert [row["trade_id"] for row in questions.recent_trades(session, "KRW-BTC")] == [2, 1, 0]
        signals = questions.recent_signals(session, "KRW-BTC", horizon_ms=5000)
        assert [row["bin_ms"] for row in signals] == [T0 + 5000, T0]
        assert signals[0]["outcome_bp"] is None
        assert signals[1]["outcome_bp"] == pytest.approx(math.log(1.001) * 1e4)
        assert [row["horizon_ms"] for row in questions.latest_signals(session)] == [5000, 10000]
        assert [row["mid"] for row in questions.mids(session, "KRW-BTC")] == [100_000.0, 100_100.0]
        (order, *more) = questions.orders(session, "paper")[::-1]
        assert (order["intent_id"], order["state"], order["identifier"]) == (intent.id, "filled", "ob-1")
        assert (order["funds"], order["executed_quantity"], more[0]["side"]) == ("6000", "0.0599", "sell")
        (fill,) = questions.fills(session)
        assert (fill["quantity"], fill["price"]) == ("0.0599", "100010")
        (position,) = questions.positions(session)
        assert position["unrealised"] == pytest.approx(0.0599 * (100_100 - 100_010 * 1.0005))
        (account,) = questions.money(session)
        assert account["balances"][0]["available"] == "10000000"
        assert Decimal(account["free"]) == Decimal(1_000_000) - Decimal(account["invested"])
        assert (account["entries"], account["forecasts"]) == (1, 4)
        (counted,) = questions.reasons(session)
        assert (counted["reason"], counted["korean"]) == (Reason.BELOW_COST, WORDS[Reason.BELOW_COST][1])
        assert questions.reasons(session, "1999-01-01") == []
        (veto,) = questions.vetoes(session, "paper")
        assert (veto["reason"], veto["english"]) == (Reason.BELOW_COST, WORDS[Reason.BELOW_COST][0])
        (fed,) = questions.feed_events(session)
        assert (fed["kind"], fed["markets"]) == ("connected", ["KRW-BTC"])
        stages = {row["topic"]: row for row in questions.stages(session)}
        assert (stages["orderbooks"]["records"], stages["orderbooks"]["marks"]) == (2, 1)
        assert stages["signals"]["last_event_ms"] == T0 + 5000


def test_a_restart_at_any_place_gives_the_same_rows(log: MemoryLog, tmp_path: Path, make: SimpleNamespace) -> None:
    one_of_each(log, make)
    whole = t.open_views(tmp_path / "whole.sqlite")
    sync(log, whole)
    parts = t.open_views(tmp_path / "parts.sqlite")
    chance = random.Random(3)
    for _ in range(40):
        kept = Views(log, parts)
        kept._batch.next.clear()
        for record in kept._reader.read(chance.randint(1, 4), 0.0):
            kept._batch.add(record)
        if chance.random() < 0.7:
            kept.write()
    sync(log, parts)
    assert dump(parts) == dump(whole)
    sync(log, whole)
    assert dump(parts) == dump(whole)
    whole.dispose()
    parts.dispose()


def test_another_log_builds_the_views_again(log: MemoryLog, engine: Engine, make: SimpleNamespace) -> None:
    one_of_each(log, make)
    sync(log, engine)
    other = MemoryLog(clock_ms=lambda: T0)
    other.create_topics([TopicSpec(one.name, one.partitions, one.config) for one in topics.TOPICS.values()])
    sync(other, engine)
    with Session(engine) as session:
        assert questions.latest_markets(session) == []
        assert questions.offsets(session) == {}
    assert len(dump(engine)["reason_text"]) == len(WORDS)


def test_a_new_database_begins_with_the_tail(log: MemoryLog, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for trade_id in range(30):
        publish(log, "trades", trade(trade_id))
    monkeypatch.setitem(views.TAILS, "trades", 10)
    sync(log, engine)
    with Session(engine) as session:
        assert len(questions.recent_trades(session, "KRW-BTC")) == 10


def test_what_is_kept_is_bounded(log: MemoryLog, engine: Engine, make: SimpleNamespace) -> None:
    for trade_id in range(250):
        publish(log, "trades", trade(trade_id, "KRW-BTC" if trade_id % 2 else "KRW-ETH"))
    for i in range(30):
        publish(log, "signals", make.signal(T0 + i * 1000))
    kept = sync(log, engine)
    for trade_id in range(250, 500):
        publish(log, "trades", trade(trade_id))
    while kept.read(0.0):
        pass
    kept.write()
    views_kept = dict(views.KEPT_ROWS)
    try:
        views.KEPT_ROWS["signal"] = 10
        beats: list[None] = []
        kept.prune(lambda: beats.append(None))
        assert len(beats) == len(views.KEPT_ROWS) + 1
    finally:
        views.KEPT_ROWS.update(views_kept)
    with Session(engine) as session:
        count = session.connection().execute(text("SELECT market, count(*) FROM trade GROUP BY 1 ORDER BY 1")).all()
        assert [tuple(row) for row in count] == [("KRW-BTC", 200), ("KRW-ETH", 125)]
        assert questions.recent_trades(session, "KRW-BTC")[0]["trade_id"] == 499
        assert next(row["bin_ms"] for row in questions.recent_signals(session, "KRW-BTC")) == T0 + 29_000
        assert len(questions.recent_signals(session, "KRW-BTC")) == 10


def test_unreadable_records_become_dead_letters(log: MemoryLog, engine: Engine) -> None:
    log.publisher().publish("signals", KEY, b"{")
    log.publisher().publish("orderbooks", KEY, b"\xff")
    state = m.encode(m.AccountState(account="x", state=msgspec.Raw(b"{}"), cursor={}, event_ms=T0))
    log.publisher().publish("account-states", "x", state)
    sync(log, engine)
    records = log.reader({Slot("dead-letters", p): 0 for p in range(4)}).read(10, 0.0)
    letters = [topics.decode("dead-letters", record.value) for record in records]
    assert {(one.topic, one.process) for one in letters} == {
        ("signals", "views"), ("orderbooks", "views"), ("account-states", "views"),
    }  # fmt: skip


def test_dust_is_shown_beside_positions(log: MemoryLog, engine: Engine, make: SimpleNamespace) -> None:
    account = Account(settings=make.settings(), is_trading=True)
    account.rests[KEY] = Rest(quantity=Decimal("0.01"), funds=Decimal(1000), cost=Decimal(1001))
    account.shadow = Shadow(trades=214, result=Decimal(-18400))
    state = m.AccountState(account="paper", state=msgspec.Raw(encode(account)), cursor={}, event_ms=T0)
    publish(log, "account-states", state, "paper")
    sync(log, engine)
    with Session(engine) as session:
        (rest,) = questions.positions(session, "paper")
        assert (rest["is_dust"], rest["market"], rest["quantity"], rest["unrealised"]) == (1, "KRW-BTC", "0.01", None)
        assert rest["strategy"] == ""
        (money,) = questions.money(session)
        assert (money["shadow_trades"], money["shadow_result"]) == (214, "-18400")


def test_two_strategies_in_one_market_are_shown_apart(log: MemoryLog, engine: Engine, make: SimpleNamespace) -> None:
    strategies = [m.StrategySettings(id="a"), m.StrategySettings(id="b")]
    fold = make.started(strategies=strategies, is_netting=True)
    first, second = make.orders_of(make.one_bin(fold, T0, 50.0, 20.0))
    for intent in (first, second):
        fold.take(make.filled(intent, "0.06", "100000", T0 + 700))
    account = fold.state.accounts["paper"]
    account.rests[f"b|{KEY}"] = Rest(quantity=Decimal("0.01"), funds=Decimal(1000), cost=Decimal(1001))
    state = m.AccountState(account="paper", state=msgspec.Raw(encode(account)), cursor={}, event_ms=T0)
    publish(log, "account-states", state, "paper")
    sync(log, engine)
    with Session(engine) as session:
        shown = [(row["market"], row["strategy"], row["is_dust"]) for row in questions.positions(session, "paper")]
        assert sorted(shown) == [("KRW-BTC", "a", 0), ("KRW-BTC", "b", 0), ("KRW-BTC", "b", 1)]


def test_views_of_another_version_are_built_again(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    with t.open_views(path).begin() as connection:
        connection.exec_driver_sql("INSERT INTO input_offset VALUES ('signals', 0, 7)")
    with t.open_views(path).begin() as connection:
        assert connection.exec_driver_sql("SELECT next FROM input_offset").scalar() == 7
        connection.exec_driver_sql("ALTER TABLE position DROP COLUMN exit")
    with t.open_views(path).begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM input_offset").scalar() == 0
        assert connection.exec_driver_sql("SELECT exit FROM position").all() == []


@pytest.mark.parametrize("kind", ["rejected", "expired", "cancelled"])
def test_orders_end_in_the_state_that_was_told(
    log: MemoryLog, engine: Engine, make: SimpleNamespace, kind: str
) -> None:
    intent = SimpleNamespace(id="i", account="paper", pocket="p", exchange="upbit", market="KRW-BTC", side="buy")
    unknown = m.OrderUnknown(
        account="paper", pocket="p", intent_id="i", attempt=1, identifier="ob", text="time-out", event_ms=T0
    )
    publish(log, "order-events", unknown, "p")
    publish(log, "order-events", make.filled(intent, "0.01", "100", T0, is_final=False), "p")
    publish(log, "order-events", make.ended(kind, intent, T0 + 1), "p")
    sync(log, engine)
    with Session(engine) as session:
        (order,) = questions.orders(session)
        assert (order["state"], order["identifier"], order["changed_ms"]) == (kind, "ob", T0 + 1)
        assert len(questions.fills(session, "paper")) == 1


def test_run_goes_on_after_an_outage(
    log: MemoryLog, tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_each(log, make)
    monkeypatch.setattr(views, "_RETRY_S", 0.0)
    monkeypatch.setattr(views, "_WRITE_EVERY_S", 0.0)
    monkeypatch.setattr(views, "_PRUNE_EVERY_S", 0.0)
    opened, failures = log.reader, [0]

    def failing(starts: dict[Slot, int]) -> Reader:
        failures[0] += 1
        if failures[0] == 1:
            raise LogUnavailable("no broker")
        return opened(starts)

    monkeypatch.setattr(log, "reader", failing)
    stop = threading.Event()
    settings = Settings(home=tmp_path)
    thread = threading.Thread(target=views.run, args=(settings, log, stop))
    thread.start()
    engine = t.open_views(t.path_of(tmp_path))
    for _ in range(100):
        with Session(engine) as session:
            if questions.money(session):
                break
        stop.wait(0.05)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert failures == [2]
    assert len(dump(engine)["market"]) == 1
    engine.dispose()
