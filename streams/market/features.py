"""The feature list: name, unit and null rule of every entry of the vector, in order, and the schema's id.

Read by the kernels (positions), by models (names) and by `docs/features-schema.md`, which a test holds against it.
The list is fixed per schema version: a change of order, meaning or length is a new version.
"""

from dataclasses import dataclass

from streams.messages import content_id

VERSION = 1


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One entry of the vector."""

    name: str
    unit: str
    null: str
    """When the entry is null; empty: never in a row that has a book."""
    meaning: str


_NO_PAST = "the run is shorter, or held no book then"

# fmt: off
# ruff: noqa: E501 one entry a line reads as the table it is
FEATURES: tuple[FeatureSpec, ...] = (
    FeatureSpec("spread_bp", "bp", "", "best ask minus best bid over mid"),
    FeatureSpec("spread_ticks", "ticks", "one level a side", "spread over the smallest gap between the best five levels"),
    FeatureSpec("tick_bp", "bp", "one level a side", "smallest gap between neighbouring levels of the best five, over mid"),
    FeatureSpec("return_1s", "bp", _NO_PAST, "log return of the mid over 1 s"),
    FeatureSpec("return_5s", "bp", _NO_PAST, "log return of the mid over 5 s"),
    FeatureSpec("return_15s", "bp", _NO_PAST, "log return of the mid over 15 s"),
    FeatureSpec("return_30s", "bp", _NO_PAST, "log return of the mid over 30 s"),
    FeatureSpec("return_60s", "bp", _NO_PAST, "log return of the mid over 60 s"),
    FeatureSpec("imbalance_l1", "-1..1", "", "(bids - asks) / (bids + asks), size of the best level"),
    FeatureSpec("imbalance_l5", "-1..1", "", "the same over the best 5 levels"),
    FeatureSpec("imbalance_l15", "-1..1", "", "the same over the best 15 levels"),
    FeatureSpec("imbalance_mean_1s", "-1..1", "no book in the last second", "mean of imbalance_l1 over the updates of the last second"),
    FeatureSpec("imbalance_mean_5s", "-1..1", "no book in the last 5 s", "mean of imbalance_l1 over the updates of the last 5 s"),
    FeatureSpec("microprice_bp", "bp", "", "size-weighted mid of the best level against mid"),
    FeatureSpec("ofi_1s", "depths", "no depth", "order-flow imbalance of the best level over 1 s, over the mean size of both best levels (arXiv 1011.6402)"),
    FeatureSpec("ofi_5s", "depths", "no depth", "the same over 5 s"),
    FeatureSpec("ofi_30s", "depths", "no depth", "the same over 30 s"),
    FeatureSpec("mofi_1s", "depths", "", "order-flow imbalance of levels 1 to 5, each over its own depth, over 1 s"),
    FeatureSpec("mofi_5s", "depths", "", "the same over 5 s"),
    FeatureSpec("mofi_30s", "depths", "", "the same over 30 s"),
    FeatureSpec("trade_flow_1s", "-1..1", "", "(bought - sold) / (bought + sold) by size over 1 s; 0 when silent"),
    FeatureSpec("trade_flow_5s", "-1..1", "", "the same over 5 s"),
    FeatureSpec("trade_flow_30s", "-1..1", "", "the same over 30 s"),
    FeatureSpec("is_silent_5s", "0/1", "", "1 when no trade came in 5 s"),
    FeatureSpec("buy_share_30s", "0..1", "no trade in 30 s", "share of trades in which the taker bought (the older system's ratio)"),
    FeatureSpec("volatility_5_trades_bp", "bp", "fewer than 2 trades in the run", "standard deviation of the last 5 trade prices over mid"),
    FeatureSpec("volatility_5s", "log ratio", "no past", "log of the root mean square of 1-bin returns over 5 s against that over W"),
    FeatureSpec("volatility_30s", "log ratio", "no past", "the same over 30 s"),
    FeatureSpec("volatility_60s", "log ratio", "no past", "the same over 60 s"),
    FeatureSpec("volatility_w_bp", "bp", "no past", "root mean square of 1-bin returns over the run (at most W bins)"),
    FeatureSpec("depth_ratio", "log ratio", "no depth", "log of the size of all levels over that of the best 5"),
    FeatureSpec("depth_width_bp", "bp", "one level a side", "distance between the fifth (or last) ask and bid level over mid"),
    FeatureSpec("trade_age_s", "s", "", "seconds from the last trade in the run to the bin's end, at most 60"),
    FeatureSpec("book_age_s", "s", "", "seconds from the last book in the run to the bin's end"),
    FeatureSpec("books_5s", "1/s", "", "order books of the last 5 s, per second"),
    FeatureSpec("quarter_phase", "0..1", "", "position inside the quarter-hour"),
)
# fmt: on

NAMES: tuple[str, ...] = tuple(spec.name for spec in FEATURES)
SCHEMA: str = f"v{VERSION}-{content_id('schema', *NAMES)[:8]}"

BOOK_AGE_CAP_S = 60.0
"""A book older than this is no longer carried forward: the row has no mid and only nulls from the book."""
