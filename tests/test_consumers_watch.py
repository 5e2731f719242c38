"""The demo's fold on messages: counts, late records, the largest forecast, money, latency."""

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from consumers.demo_view import Facts, closing, live
from consumers.watch import Watch
from infra.log import Record
from infra.settings import FeedSettings, Settings
from infra.supervisor import ProcessState
from infra.terminal import Section
from streams import messages as m

GRID = 1000


def watch(live_from: Literal["warm", "connected"] = "warm") -> Watch:
    return Watch(live_from=live_from, lateness_ms=500, speed=1.0, least_needed_bp=15.0)


class Log:
    """Hands records out with offsets and append times."""

    def __init__(self, into: Watch) -> None:
        self.into = into
        self.offset = 0

    def add(self, topic: str, message: m.Message | bytes, append_ms: int = 1_000_000) -> None:
        self.offset += 1
        value = message if isinstance(message, bytes) else m.encode(message)
        self.into.apply(Record(topic, 0, self.offset, append_ms, "", value))


def book(at: int, **changes: Any) -> m.OrderBook:
    fields: dict[str, Any] = {
        "exchange": "upbit", "market": "KRW-BTC", "source": "s", "session": 1, "exchange_ms": at, "received_ns": 0,
        "bid_prices": [1.0], "bid_sizes": [1.0], "ask_prices": [2.0], "ask_sizes": [1.0],
    }  # fmt: skip
    return m.OrderBook(**{**fields, **changes})


def trade(at: int, origin: Literal["stream", "backfill"] = "stream") -> m.Trade:
    return m.Trade(
        exchange="upbit", market="KRW-BTC", source="s", session=1, exchange_ms=at, trade_ms=at, received_ns=0,
        trade_id=at, price=1.0, size=1.0, is_buy=True, origin=origin,
    )  # fmt: skip


def beat(at: int, session: int = 1, complete: int = 0, markets: tuple[str, ...] = ("KRW-BTC",)) -> m.Heartbeat:
    return m.Heartbeat(
        exchange="upbit", source="s", session=session, count=0, event_ms=at, complete_from_ms=complete,
        markets=list(markets),
    )  # fmt: skip


def row(bin_ms: int, market: str = "KRW-BTC", books: int = 1, mid: float | None = 100.0) -> m.Features:
    return m.Features(
        exchange="upbit", market=market, bin_ms=bin_ms, grid_ms=GRID, schema="x", source="s", session=1, n_bins=1,
        n_books=books, n_trades=0, mid=mid, spread=None, values=[], levels=[], accumulators=[],
    )  # fmt: skip


def signal(bin_ms: int, expected: float, market: str = "KRW-BTC", refusal: str = "") -> m.Signal:
    return m.Signal(
        id=f"{bin_ms}{market}", exchange="upbit", market=market, bin_ms=bin_ms, horizon_ms=5000, schema="x",
        model_id="model", expected_bp=expected, sigma_bp=1.0, mid=100.0, is_licensed=not refusal, feed="synthetic",
        refusal=refusal,
    )  # fmt: skip


def veto(reason: str, best: float | None, needed: float | None, market: str = "KRW-BTC") -> m.Veto:
    return m.Veto(
        account="paper", exchange="upbit", market=market, reason=reason, event_ms=1, best_expected_bp=best,
        needed_bp=needed, horizon_ms=5000,
    )  # fmt: skip


def intent(name: str, side: m.Side, purpose: m.Purpose) -> m.OrderIntent:
    return m.OrderIntent(
        id=name, account="paper", pocket="p", exchange="upbit", market="KRW-BTC", side=side, order_type="price",
        price=None, quantity=None, funds=Decimal(6000), time_in_force="", purpose=purpose, cause_kind="signal",
        cause_id="c", event_ms=1, expires_ms=2, reason="",
    )  # fmt: skip


def fill(intent_id: str, side: m.Side, price: str, quantity: str, fee: str, name: str = "") -> m.OrderFilled:
    funds = Decimal(price) * Decimal(quantity)
    return m.OrderFilled(
        account="paper", pocket="p", intent_id=intent_id, uuid="u", fill_id=name or intent_id, exchange="upbit",
        market="KRW-BTC", side=side, price=Decimal(price), quantity=Decimal(quantity), funds=funds, fee=Decimal(fee),
        executed_quantity=Decimal(quantity), executed_funds=funds, paid_fee=Decimal(fee), is_final=True, event_ms=1,
    )  # fmt: skip


def test_late_is_what_comes_behind_the_heartbeat_of_its_own_source_and_session() -> None:
    folded = watch()
    log = Log(folded)
    log.add("orderbooks", beat(2000, complete=2000))
    log.add("orderbooks", book(1500))  # before the session is complete: not late
    log.add("orderbooks", book(2500))
    log.add("orderbooks", beat(3000, complete=2000))
    log.add("orderbooks", book(2900))  # late
    log.add("orderbooks", book(2900, session=0))  # an older session is not judged
    log.add("orderbooks", book(2900, source="other"))
    log.add("orderbooks", book(3000))
    log.add("trades", beat(3000, complete=2000))
    log.add("trades", trade(2999))  # late
    log.add("trades", trade(2999, "backfill"))
    log.add("orderbooks", beat(1000, session=0))  # a zombie's heartbeat moves nothing back
    log.add("orderbooks", book(2900))  # late
    told = folded.summary()
    assert told["late"] == {"records": 3, "share": pytest.approx(3 / 9), "orderbooks": 2, "trades": 1}
    assert told["counts"]["orderbooks"] == 7
    assert told["counts"]["backfilled_trades"] == 1


def test_rows_count_once_and_markets_without_a_book_are_named() -> None:
    folded = watch()
    log = Log(folded)
    log.add("orderbooks", beat(4000, markets=("KRW-BTC", "KRW-ETH")))
    for one in (row(1000), row(2000), row(2000), row(1000), row(3000, books=0), row(3000, "KRW-ETH", 0, None)):
        log.add("features", one)
    told = folded.summary()
    assert told["rows"] == {"upbit:KRW-BTC": 3, "upbit:KRW-ETH": 1}
    assert told["rows_with_book"] == {"upbit:KRW-BTC": 2, "upbit:KRW-ETH": 0}
    assert told["markets_without_book"] == ["upbit:KRW-ETH"]
    assert told["records"]["features"] == 6
    assert folded.lag_seconds("features") == 1.0
    assert folded.lag_seconds("signals") is None


def test_live_begins_with_the_end_of_the_warm_up() -> None:
    folded = watch()
    log = Log(folded)
    log.add("signals", signal(5000, 50.0))
    assert folded.first_signal_append_ms is None
    log.add("feed-events", event("warm", 6000), 7_000)
    log.add("controls", m.Warmed(event_ms=6000, by="feed"), 7_001)
    log.add("signals", signal(6000, 40.0), 7_100)  # of the warm-up still
    assert folded.best_signal is None
    log.add("signals", signal(7000, 3.0), 7_640)
    log.add("signals", signal(7000, 3.0), 7_900)  # a repeat
    log.add("signals", signal(8000, 9.0, refusal="no-licence"), 8_700)
    assert folded.live_append_ms == 7_000
    assert folded.first_signal_append_ms == 7_640
    told = folded.summary()
    assert told["counts"]["signals"] == 4
    assert told["latency_ms"] == {"p50": 700.0, "p99": 700.0, "signals": 2, "behind_at_the_start": 0}
    assert told["forecast"]["largest_bp"] == 9.0
    assert told["forecast"]["needed_bp"] is None
    assert told["refused_signals"] == {"no-licence": 1}


def test_live_time_begins_when_every_market_is_live() -> None:
    folded = watch()
    log = Log(folded)
    for market in ("KRW-BTC", "KRW-ETH"):
        log.add("orderbooks", book(5900, market=market))
    log.add("controls", m.Warmed(event_ms=6000, by="feed"), 7_000)
    log.add("signals", signal(7000, 3.0), 7_600)
    assert (folded.first_signal_append_ms, folded.all_live_append_ms) == (7_600, None)
    log.add("signals", msgspec.structs.replace(signal(7000, 3.0), market="KRW-ETH"), 9_900)
    assert (folded.first_signal_append_ms, folded.all_live_append_ms) == (7_600, 9_900)
    lone = watch()
    log = Log(lone)
    for market in ("KRW-BTC", "KRW-ETH"):
        log.add("orderbooks", book(5900, market=market))
    log.add("controls", m.Warmed(event_ms=6000, by="feed"), 7_000)
    log.add("signals", signal(7000, 3.0), 7_600)
    log.add("signals", signal(37000, 3.0), 37_600)  # the other market is waited for no longer
    assert lone.all_live_append_ms == 37_600


def test_a_halt_stands_until_it_is_lifted() -> None:
    folded = watch()
    log = Log(folded)
    assert folded.halts_on("paper") == []
    for account, kind, is_halted in (
        ("paper", "no-new-orders", True), ("paper", "lifted", False), ("*", "sell-all", True), ("paper", "lifted", True)
    ):  # fmt: skip
        log.add("controls", m.Halt(account=account, kind=kind, event_ms=1, by="me"))  # type: ignore[arg-type]
        assert [halt.by for halt in folded.halts_on("paper")] == ["me"] * is_halted


def event(kind: Any, at: int) -> m.FeedEvent:
    return m.FeedEvent(exchange="upbit", source="s", session=1, kind=kind, event_ms=at, received_ns=0, text=kind)


def test_a_recording_is_live_from_its_connection_and_ends() -> None:
    folded = watch("connected")
    log = Log(folded)
    log.add("feed-events", event("connected", 0), 900_000)
    log.add("orderbooks", beat(2000), 900_500)
    log.add("trades", beat(2000), 900_510)
    log.add("signals", signal(2000, 1.0), 900_530)  # the clock of the recording is another one than ours
    log.add("feed-events", event("ended", 0), 950_000)
    assert (folded.live_append_ms, folded.ended_ms) == (900_000, 950_000)
    assert list(folded.latencies) == [530.0]  # since the heartbeat, plus the lateness
    log.add("signals", signal(3000, 1.0), 900_600)  # no heartbeat known: no latency made up
    assert len(folded.latencies) == 1


def test_signals_of_the_time_before_the_start_was_over_tell_no_latency() -> None:
    folded = watch()
    log = Log(folded)
    log.add("feed-events", event("warm", 6000), 7_000)
    log.add("orderbooks", beat(9000), 9_500)
    log.add("signals", signal(7000, 1.0), 9_600)
    log.add("signals", signal(8000, 1.0), 9_610)
    log.add("signals", signal(9000, 1.0), 9_620)
    assert list(folded.latencies) == [620.0]
    assert folded.summary()["latency_ms"]["behind_at_the_start"] == 2


def test_the_largest_forecast_stands_beside_what_that_trade_needed() -> None:
    folded = watch("connected")
    log = Log(folded)
    assert folded.largest() is None
    log.add("signals", signal(1000, 4.0))
    log.add("order-events", veto("below-cost", 3.0, 21.0))
    assert folded.largest() == (4.0, "KRW-BTC", 5000, 21.0)
    log.add("order-events", veto("below-cost", 8.0, 22.0, "KRW-ETH"))
    log.add("order-events", veto("cool-down", None, None))
    log.add("order-events", veto("below-cost", 1.0, 23.0, "KRW-ETH"))
    assert folded.largest() == (8.0, "KRW-ETH", 5000, 22.0)
    assert folded.vetoes == {"below-cost": 3, "cool-down": 1}
    assert folded.reason_now["paper upbit:KRW-BTC"] == "cool-down"


def test_money_is_net_of_fees_and_repeats_change_nothing() -> None:
    folded = watch()
    log = Log(folded)
    log.add("order-intents", intent("in", "buy", "entry"))
    log.add("order-intents", intent("out", "sell", "exit"))
    log.add("order-intents", m.CancelIntent(id="c", account="a", pocket="p", intent_id="in", event_ms=1, reason="r"))
    for _ in range(2):
        log.add("order-events", fill("in", "buy", "100", "10", "0.5"))
        log.add("order-events", fill("out", "sell", "110", "4", "0.2"))
    log.add("features", row(1000, mid=105.0))
    money = folded.summary()["money"]
    assert money["realised"] == pytest.approx(440 - 0.2 - 0.4 * 1000.5)
    assert money["open"] == pytest.approx(6 * 105 - 0.6 * 1000.5)
    assert money["after_costs"] == pytest.approx(money["realised"] + money["open"])
    assert money["fees"] == pytest.approx(0.7)
    assert money["open_positions"] == 1
    assert folded.summary()["orders"]["entries_filled"] == folded.summary()["orders"]["exits_filled"] == 1
    log.add("order-events", fill("out", "sell", "110", "6", "0", "last"))
    money = folded.summary()["money"]
    assert (money["open"], money["open_positions"], money["open_without_price"]) == (0.0, 0, 0)
    assert folded.summary()["counts"]["fills"] == 3


def test_a_position_without_a_price_is_worth_what_it_cost() -> None:
    folded = watch()
    Log(folded).add("order-events", fill("x", "buy", "100", "1", "1"))  # its intent was never seen
    assert folded.summary()["money"]["open_without_price"] == 1
    assert folded.summary()["money"]["after_costs"] == 0
    assert folded.summary()["orders"]["entries_filled"] == 1


def test_what_became_of_orders_is_counted_by_intent() -> None:
    folded = watch()
    log = Log(folded)
    common: dict[str, Any] = {"account": "a", "pocket": "p", "intent_id": "i", "event_ms": 1}
    for _ in range(2):
        log.add("order-events", m.OrderSent(**common, attempt=1, identifier="x"))
        log.add("order-events", m.OrderRejected(**common, attempt=1, name="insufficient_funds", text=""))
    told = folded.summary()["orders"]
    assert (told["sent"], told["rejected"], told["accepted"]) == (1, 1, 0)
    assert told["rejections"] == {"insufficient_funds": 1}


def test_unreadable_records_are_counted_and_the_rest_goes_on() -> None:
    folded = watch()
    log = Log(folded)
    log.add("orderbooks", b"{")
    log.add("signals", b'{"type":"signal"}')
    log.add("orderbooks", m.Hole(exchange="u", source="s", session=1, from_ms=0, to_ms=1, markets=[], reason="r"))
    log.add("model-events", m.Refusals(process="predict", counts={"short-run": 3}, event_ms=1))
    kind: Any = "trained"
    log.add("model-events", m.ModelEvent(kind=kind, model_id="m", effective_from_bin_ms=0, text="", event_ms=0))
    told = folded.summary()
    assert (told["counts"]["unreadable"], told["counts"]["holes"]) == (2, 1)
    assert told["refused_windows"] == {"short-run": 3}


def test_many_bins_do_not_pile_up() -> None:
    folded = watch()
    log = Log(folded)
    for second in range(5_000):
        log.add("orderbooks", beat(second * 1000 + 1000))
    assert len(folded._beats) <= 2_000
    assert folded.first_fed_ms == 1000


def words_of(section: Section) -> dict[str, str]:
    return {row[0]: row[1] for row in section.rows}


def whole() -> Watch:
    folded = watch()
    log = Log(folded)
    log.add("orderbooks", beat(7000))
    log.add("feed-events", event("warm", 6000), 7_000)
    for number in range(25):
        log.add("features", row(7000, f"KRW-{number}"))
    log.add("signals", signal(7000, 3.0, refusal="no-licence"), 7_640)
    log.add("order-events", veto("below-cost", 3.0, 21.0))
    log.add("order-events", fill("in", "buy", "100", "10", "0.5"))
    for name in ("paper", "*"):
        raw = msgspec.Raw(b'{"shadow":{"trades":214,"result":"-18400"}}')
        log.add("account-states", m.AccountState(account=name, state=raw, cursor={}, event_ms=7000))
    return folded


def test_the_view_calls_what_is_synthetic_so() -> None:
    folded, facts = whole(), Facts(Settings(), 60)
    title, sections, line = live(folded, [ProcessState("feed", "running", 1, 2.0, 1, 30.0, "")], facts, 12)
    assert "SYNTHETIC" in title
    assert "live 12 of 60 s" in title
    assert "http://127.0.0.1:8501" in title
    assert "best 3.0 of 21.0 bp" in line
    assert any("1 restarts" in row for section in sections for row in section.rows)
    title, _, line = live(watch(), [], Facts(Settings(feed=FeedSettings(kind="upbit")), None), 0)
    assert "real" in title
    assert "no forecast yet" in line
    calm = Facts(Settings(feed=FeedSettings(linear_edge=0)), None)
    assert "no predictability planted" in calm.feed
    assert "recording" in Facts(Settings(feed=FeedSettings(kind="recording", recording=Path("a.gz"))), None).feed


def test_the_closing_tables_say_what_was_needed() -> None:
    extra = {"seconds_to_first_live_signal": 12.0, "live_seconds": 60.0, "processes_left": 0, "sold_at_the_end": 0}
    sections = closing({**whole().summary(), **extra}, Facts(Settings(), 60))
    words = words_of(sections[0])
    assert words["largest forecast"] == "3.00 bp (KRW-BTC)"
    assert words["what that trade needed"] == "21.00 bp"
    assert words["with the older rule (threshold and one fee)"] == "214 trades, -18,400 KRW"
    assert words["processes left behind"] == "0"
    assert [section.title for section in sections][1:3] == [
        "Why nothing was traded (changes of reason)",
        "Why a model gave no usable forecast",
    ]
    assert sections[-1].rows[-1] == ("and 5 more",)
    empty = closing({**watch().summary(), **extra, "seconds_to_first_live_signal": None}, Facts(Settings(), 60))
    assert words_of(empty[0])["what that trade needed"] == "15.00 bp or more"
    assert words_of(empty[0])["largest forecast"] == "none"
