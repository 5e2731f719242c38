"""What a market looks like in figures: spread, depth, waits, returns; the same sums over made and recorded books.

Called by `synthetic`. Reads the recordings that stand outside the project; pure but for that.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from producers.sandbox.synthetic import Plan, Synthetic
from producers.verify.planted import START_MS

Floats = npt.NDArray[np.float64]

LEVELS = 15
_LEAST_BOOKS = 60
_BINANCE = "derived_spot_ethusdt_20240808_depth15_100ms.parquet"
_BINANCE_TRADES = "spot_ethusdt_20240808_trades.parquet"


class Books(NamedTuple):
    """One market's books in time order, prices and sizes best first, and the times of its trades."""

    at_ms: Floats
    bid_prices: Floats
    bid_sizes: Floats
    ask_prices: Floats
    ask_sizes: Floats
    trade_ms: Floats


def made(plan: Plan, seconds: int) -> Iterator[Books]:
    """The books of a synthetic market, in ticks and lots: every figure below is a ratio."""
    market = Synthetic(plan, START_MS)
    index = {row.market: m for m, row in enumerate(market.rows)}
    books: list[list[tuple[npt.NDArray[np.int64], ...]]] = [[] for _ in index]
    made_ms: list[list[int]] = [[] for _ in index]
    trades: list[list[int]] = [[] for _ in index]
    for frame in market.run_until(START_MS + seconds * 1_000):
        m = index[frame.market]
        if frame.kind == "trade":
            trades[m].append(frame.exchange_ms)
            continue
        inside = market.inside()
        made_ms[m].append(frame.exchange_ms)
        sides = inside.bid_ticks, inside.bid_lots, inside.ask_ticks, inside.ask_lots
        books[m].append(tuple(side[m, :LEVELS] for side in sides))
    for at_ms, rows, traded in zip(made_ms, books, trades, strict=True):
        bids, bid_lots, asks, ask_lots = (np.array([row[k] for row in rows], dtype=np.float64) for k in range(4))
        at, traded_at = (np.array(times, dtype=np.float64) for times in (at_ms, traded))
        yield Books(at, bids, bid_lots, asks, ask_lots, traded_at)


def of_upbit(folder: Path) -> Iterator[Books]:
    """Every recorded Upbit market with enough books; two short recordings of April 2021."""
    for file in sorted((folder / "upbit_ws").glob("upbit_orderbook_*.parquet")):
        frame = pd.read_parquet(file)
        trades = pd.read_parquet(file.with_name(file.name.replace("orderbook", "trade").replace("_15lv", "")))
        for market, rows in frame.groupby("code"):
            if len(rows) >= _LEAST_BOOKS:
                yield _books(rows, "timestamp", trades.loc[trades["code"] == market, "timestamp"])


def of_binance(folder: Path) -> Iterator[Books]:
    """Eleven minutes of Binance ETHUSDT of August 2024: long enough for returns."""
    file = folder / "binance_l2" / _BINANCE
    if file.exists():
        yield _books(pd.read_parquet(file), "event_ms", pd.read_parquet(file.with_name(_BINANCE_TRADES))["event_ms"])


def _books(rows: pd.DataFrame, time: str, traded: "pd.Series[int]") -> Books:
    rows = rows.sort_values(time, kind="stable")
    bids, bid_sizes, asks, ask_sizes = (
        rows[[f"{side}_{what}_{i}" for i in range(1, LEVELS + 1)]].to_numpy(dtype=np.float64)
        for side in ("bid", "ask")
        for what in ("price", "size")
    )
    at_ms, trade_ms = (np.sort(column.to_numpy(dtype=np.float64)) for column in (rows[time], traded))
    return Books(at_ms, bids, bid_sizes, asks, ask_sizes, trade_ms)


def statistics(books: Books) -> dict[str, float]:
    """The figures of one market; what it has too little of is left out."""
    mid = 0.5 * (books.bid_prices[:, 0] + books.ask_prices[:, 0])
    spread_bp = (books.ask_prices[:, 0] - books.bid_prices[:, 0]) / mid * 1e4
    found = {"spread, median bp": float(np.median(spread_bp)), "spread, mean bp": float(spread_bp.mean())}
    sizes = 0.5 * (books.bid_sizes + books.ask_sizes).mean(axis=0)
    distance = 0.5 * (books.ask_prices - books.bid_prices) / mid[:, None] * 1e4
    for level in (1, 5, 15):
        found[f"depth, size of level {level} over the mean of {LEVELS}"] = float(sizes[level - 1] / sizes.mean())
    found["depth, level 15 from the mid price, bp"] = float(np.median(distance[:, LEVELS - 1]))
    for what, at_ms in (("books", books.at_ms), ("trades", books.trade_ms)):
        if len(at_ms) >= _LEAST_BOOKS:
            waits = np.diff(at_ms) / 1e3
            found[f"inter-arrival of {what}, mean s"] = float(waits.mean())
            found[f"inter-arrival of {what}, deviation over mean"] = float(waits.std() / waits.mean())
    return found | _of_returns(books.at_ms, mid)


def _of_returns(at_ms: Floats, mid: Floats) -> dict[str, float]:
    """Of the mid price's log returns over one second, in bp."""
    seconds = np.arange(at_ms[0] + 1_000, at_ms[-1], 1_000)
    returns = np.diff(np.log(mid[np.searchsorted(at_ms, seconds, side="right") - 1])) * 1e4
    absolute = np.abs(returns)
    if len(returns) < _LEAST_BOOKS or returns.std() == 0.0:
        return {}
    return {
        "returns of 1 s, deviation bp": float(returns.std()),
        "returns of 1 s, autocorrelation at 1 s": _autocorrelation(returns, 1),
        "returns of 1 s, kurtosis": float(((returns - returns.mean()) ** 4).mean() / returns.var() ** 2),
        "volatility clustering, autocorrelation of absolute returns at 1 s": _autocorrelation(absolute, 1),
        "volatility clustering, autocorrelation of absolute returns at 10 s": _autocorrelation(absolute, 10),
    }


def _autocorrelation(values: Floats, lag: int) -> float:
    """Not a number where one of the stretches does not change."""
    later, earlier = values[lag:], values[:-lag]
    return float(np.corrcoef(later, earlier)[0, 1]) if later.std() * earlier.std() > 0.0 else math.nan


def medians(markets: Iterator[Books]) -> dict[str, float]:
    """Each figure's median over the markets that have it."""
    found: dict[str, list[float]] = {}
    count = 0
    for count, books in enumerate(markets, 1):  # noqa: B007 - it is used behind the loop
        for name, value in statistics(books).items():
            if math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {"markets": count} | {name: round(float(np.median(values)), 4) for name, values in found.items()}
