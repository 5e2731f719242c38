"""Accounts and messages made by lot for `verify risk`: limits that bite, small budgets, several people."""

from decimal import Decimal
from random import Random

from streams import messages as m

EXCHANGE = "upbit"
MARKETS = {"KRW-AAA": 100_000.0, "KRW-BBB": 2_000.0}
FUNDS = (*[Decimal(6000)] * 9, *[Decimal(10_000)] * 3, Decimal(30_000), Decimal(60_000), Decimal(5050), Decimal(4000))


def busy_settings(event_ms: int) -> m.AccountSettings:
    """An account that orders as often as it can: for the ratio that counts from the twentieth order on."""
    return m.AccountSettings(
        account="a0", pocket="p0", venue="paper", is_trading=True, budget=Decimal(1_000_000),
        entry_funds=Decimal(6000), threshold_percent=Decimal("0.05"), fee_percent=Decimal("0.05"),
        stop_percent=Decimal("1.5"), hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[], cooldown_ms=0,
        event_ms=event_ms, limits=m.RiskLimits(cancel_ratio=0.05),
    )  # fmt: skip


def settings_of(random: Random, number: int, event_ms: int) -> m.AccountSettings:
    """An account; most of its limits are left out, so that each of them is the first to answer at times."""
    strategies = []
    if random.random() < 0.3:
        strategies = [
            m.StrategySettings(id="one", entry_funds=random.choice((None, Decimal(8000)))),
            m.StrategySettings(
                id="two", kind="nothing" if random.random() < 0.1 else "order-book", exits=_exits(random)
            ),
        ]
    return m.AccountSettings(
        account=f"a{number}",
        pocket=f"p{number if random.random() < 0.8 else 0}",
        venue="live" if random.random() < 0.02 else "paper",
        is_trading=random.random() < 0.98,
        budget=Decimal(random.choice((15_000, 50_000, 1_000_000))),
        entry_funds=random.choice(FUNDS),
        threshold_percent=Decimal("0.05"),
        fee_percent=random.choice((Decimal("0.05"), Decimal(0))),
        stop_percent=random.choice((Decimal("1.5"), Decimal(5))),
        hysteresis_percent=Decimal(0),
        horizons_ms=[5000, 10_000] if random.random() < 0.1 else [5000],
        markets=["KRW-AAA"] if random.random() < 0.1 else [],
        maximum_positions=random.choice((1, 2, 2)),
        cooldown_ms=random.choice((0, 0, 3000)),
        event_ms=event_ms,
        user=random.choice(("", "kim", "kim", "lee")),
        strategies=strategies,
        is_netting=random.random() < 0.5,
        exits=_exits(random),
        limits=limits_of(random),
    )


def _exits(random: Random) -> m.ExitRules:
    if random.random() < 0.5:
        return m.ExitRules(take_profit_percent=Decimal("0.02"), is_take_profit_resting=True)
    return m.ExitRules(time_stop_ms=random.choice((None, 60_000)), on_stale=random.choice(("hold", "rest", "sell")))


def limits_of(random: Random) -> m.RiskLimits:
    """Limits, each of them often missing."""

    def some(*amounts: str, share: float = 0.15) -> Decimal | None:
        return Decimal(random.choice(amounts)) if random.random() < share else None

    return m.RiskLimits(
        order_funds=some("5500", "9000"),
        market_exposure=some("7000", "20000"),
        exposure=some("9000", "25000"),
        orders_per_day=random.choice((0, 1, 3)) if random.random() < 0.1 else None,
        daily_loss=some("1", "20"),
        drawdown=some("1", "30"),
        price_band_percent=some("0.1", "1", share=0.5),
        cancel_ratio=random.choice((0.02, 0.2)) if random.random() < 0.4 else None,
        market_share_percent=some("5", "50", share=0.1),
    )


def features_of(random: Random, market: str, mid: float, bin_ms: int) -> m.Features:
    """A bin; at times without a book, or with a thin one."""
    half, size = mid * 5e-5, random.choice((0.1, 1.0, 5.0)) * 100_000.0 / mid
    bids = [mid - half * (1 + 2 * i) for i in range(5)]
    asks = [mid + half * (1 + 2 * i) for i in range(5)]
    levels: list[float | None] = [*bids, *[size] * 5, *asks, *[size] * 5]
    if random.random() < 0.01:
        levels = [None] * 20
    accumulators: list[float | None] = [0.0] * 27
    accumulators[-8], accumulators[-7] = random.choice((0.0, 5e3, 1e5, 3e6)), random.choice((0.0, 1e4))
    return m.Features(
        exchange=EXCHANGE, market=market, bin_ms=bin_ms, grid_ms=1000, schema="s", source="x", session=1, n_bins=300,
        n_books=1, n_trades=1, mid=mid, spread=2 * half, values=[], levels=levels, accumulators=accumulators,
    )  # fmt: skip


def quote_of(random: Random, market: str, mid: float, event_ms: int) -> m.Quote:
    """A book over REST, now and then below every stop."""
    bid = mid * random.choice((0.9999, 0.9999, 0.9))
    return m.Quote(
        exchange=EXCHANGE, market=market, source="s", event_ms=event_ms, exchange_ms=event_ms, received_ns=0,
        bid_prices=[bid], bid_sizes=[1.0], ask_prices=[mid * 1.0001], ask_sizes=[1.0],
    )  # fmt: skip


def signal_of(random: Random, market: str, mid: float, bin_ms: int, horizon_ms: int) -> m.Signal:
    """A forecast that mostly pays."""
    refusal = random.choice(("synthetic-model", "no-licence", "unlicensed")) if random.random() < 0.04 else ""
    return m.Signal(
        id=m.signal_id(EXCHANGE, market, bin_ms, horizon_ms, "model", "s"),
        exchange=EXCHANGE, market=market, bin_ms=bin_ms, horizon_ms=horizon_ms, schema="s", model_id="model",
        expected_bp=random.choice((40.0, 40.0, 60.0, 90.0, 5.0, -30.0)), sigma_bp=10.0, mid=mid,
        is_licensed=not refusal, feed="synthetic", refusal=refusal,
    )  # fmt: skip


def market_of(lot: float, market: str, event_ms: int) -> m.Market:
    """What the exchange says of a market; mostly nothing that stands in the way, nothing at all for the lot 1."""
    return m.Market(
        exchange=EXCHANGE, market=market, event_ms=event_ms, tick_size=Decimal(1),
        minimum_total=Decimal(5000), maximum_total=Decimal(7000) if lot < 0.25 else Decimal(1_000_000_000),
        is_caution=0.25 < lot < 0.3, is_warning=0.3 < lot < 0.35, is_delisted=0.35 < lot < 0.4,
        delisting_ms=event_ms + 2 * 86_400_000 if 0.4 < lot < 0.43 else None,
    )  # fmt: skip
