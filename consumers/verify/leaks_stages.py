"""The real stages as subjects of the leak checks: features, signals of the shipped linear model, decisions of trade.

Called by `consumers.verify.leaks_battery`, by planted leaks and by tests. Everything is computed by the code that runs
live; nothing is computed here but the paper fills that let trade go on.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from hashlib import blake2b
from pathlib import Path

from consumers.predict_stage import PredictStage
from consumers.trade.fold import Fold
from consumers.trade.fold import Output as Decision
from consumers.trade.state import Parameters, money_context
from consumers.verify.disturbed import GRID_MS, Written
from consumers.verify.leaks_futures import said
from consumers.verify.leaks_subjects import Label, Output, Study, Subject
from consumers.verify.risk_orders import filled
from models.forecast.dataset import collect, labels, vector_of
from models.forecast.registry import Served, serve
from models.strategies.registry import STRATEGIES, Kinds
from streams import messages as m
from streams.market.costs import levels_of
from streams.market.features import NAMES
from streams.stage import PartitionStage, StageOptions

WINDOW_BINS = 60
FREE_OF_TRADE_ORDER = (
    "trade_flow_1s",
    "trade_flow_5s",
    "trade_flow_30s",
    "is_silent_5s",
    "buy_share_30s",
    "trade_age_s",
)
"""Features that do not depend on the order of the trades inside a bin."""
_ALL = tuple(range(len(NAMES) + 1))
_LABEL_HORIZON_MS = 5_000


def feature_rows(records: Iterable[Written]) -> list[m.Features]:
    """The feature stage over records, one stage per partition as a worker has it."""
    stages: dict[int, PartitionStage] = {}
    rows: list[m.Features] = []
    for record in records:
        message = said(record.topic, record.value)
        if message is None:
            continue
        stage = stages.get(record.partition)
        if stage is None:
            stage = stages[record.partition] = PartitionStage(StageOptions(GRID_MS, WINDOW_BINS))
        rows += stage.apply(record.topic, message)
    return rows


def features_of(records: Sequence[Written]) -> list[Output]:
    """Vector and mid of every row."""
    return [Output(row.bin_ms, row.market, (*vector_of(row), row.mid)) for row in feature_rows(records)]


@cache
def _served() -> Served:
    return serve("", "synthetic", Path())


def signals_by_row(records: Iterable[Written]) -> Iterator[tuple[m.Features, list[m.Signal]]]:
    """Rows with the signals of the shipped linear model, in the order in which they came."""
    stage = PredictStage("synthetic", _served(), 1)
    for row in feature_rows(records):
        yield row, stage.on_rows([row])


def signals_of(records: Sequence[Written]) -> list[Output]:
    """Every signal: horizon, expectation, deviation and mid."""
    return [
        Output(one.bin_ms, one.market, (one.horizon_ms, one.expected_bp, one.sigma_bp, one.mid))
        for _, signals in signals_by_row(records)
        for one in signals
    ]


def account_of(kind: str) -> m.AccountSettings:
    """A paper account that trades at the slightest expectation: with fees it would hardly ever."""
    return m.AccountSettings(
        account="paper", pocket="paper", venue="paper", is_trading=True, budget=Decimal(10**9),
        entry_funds=Decimal(6_000), threshold_percent=Decimal(-10), fee_percent=Decimal(0),
        stop_percent=Decimal("0.05"), hysteresis_percent=Decimal("0.001"), horizons_ms=[5_000, 10_000],
        markets=[], cooldown_ms=1_000, strategies=[m.StrategySettings(id=kind, kind=kind)],
    )  # fmt: skip


def decided(records: Iterable[Written], kind: str, kinds: Kinds) -> Iterator[Decision]:
    """What trade decides; every order is filled at once at the best price of the newest book."""
    fold = Fold(Parameters(), money_context(), kinds=kinds)
    fold.take(account_of(kind))
    for row, signals in signals_by_row(records):
        outputs = [*fold.pulse(row.bin_ms), *fold.take(row)]
        for signal in signals:
            outputs += fold.take(signal)
        while outputs:
            output = outputs.pop(0)
            yield output
            if isinstance(output, m.OrderIntent):
                outputs += fold.take(_filled(fold, output))


def _filled(fold: Fold, intent: m.OrderIntent) -> m.OrderEvent:
    """The order wholly filled at the best price; cancelled where there is no book."""
    book = fold.state.shared.books.get(m.key_of(intent.exchange, intent.market))
    levels = levels_of(book.levels) if book is not None else None
    if levels is None:
        return m.OrderCancelled(
            account=intent.account, pocket=intent.pocket, intent_id=intent.id, uuid="u", executed_quantity=Decimal(0),
            executed_funds=Decimal(0), paid_fee=Decimal(0), event_ms=intent.event_ms,
        )  # fmt: skip
    best = levels.asks.prices[0] if intent.side == "buy" else levels.bids.prices[0]
    price = Decimal(repr(best))
    quantity = intent.quantity
    if quantity is None:
        quantity = ((intent.funds or Decimal(0)) / price).quantize(Decimal("1e-8"), rounding=ROUND_FLOOR)
    return filled(
        intent.account, intent.pocket, intent.id, intent.market, intent.side, None, quantity, price, intent.event_ms,
        purpose=intent.purpose,
    )  # fmt: skip


def decisions_of(records: Sequence[Written], kind: str = "order-book", kinds: Kinds = STRATEGIES) -> list[Output]:
    """Every decision, as a number made of its bytes."""
    return [_of_decision(one) for one in decided(records, kind, kinds)]


def _of_decision(one: Decision) -> Output:
    digest = blake2b(m.encode(one), digest_size=6).digest()
    market = "" if isinstance(one, m.CancelIntent) else one.market
    return Output(one.event_ms, market, (float(int.from_bytes(digest)),))


FEATURES = Subject(
    "features",
    features_of,
    independent=(
        ("topics", _ALL),
        ("markets", _ALL),
        ("trades", tuple(NAMES.index(name) for name in FREE_OF_TRADE_ORDER)),
    ),
)
SIGNALS = Subject("signals", signals_of, independent=(("topics", (0, 1, 2, 3)), ("markets", (0, 1, 2, 3))))
DECISIONS = Subject("decisions", decisions_of)
"""Trade takes markets in the order in which they come and records it: it declares no order to be without meaning."""


def strategy_subject(kind: str, kinds: Kinds) -> Subject:
    """Trade with one strategy, for strategies from a folder."""
    return Subject(f"strategy {kind}", lambda records: decisions_of(records, kind, kinds))


def labels_of(records: Sequence[Written]) -> list[Label]:
    """Labels as training makes them: the mid's return over five seconds, one bin after the row."""
    rows = collect(feature_rows(records))
    target = labels(rows, _LABEL_HORIZON_MS)
    return [
        Label(int(rows.bin_ms[at]), rows.markets[rows.market[at]].split(":", 1)[1], float(target.y[at]), int(end))
        for at, end in enumerate(target.span_end_ms)
        if target.usable[at]
    ]


TRAINING = Study(
    "training table",
    lambda records, _fit_end_ms: [one._replace(values=one.values[:-1]) for one in features_of(records)],
    labels_of,
    delay_ms=GRID_MS,
)
