"""The kernels against an independent, slow computation in plain Python and numpy."""

import itertools
import math
import random

import numpy as np
import pytest

from streams.market import kernels
from streams.market.features import FEATURES, NAMES
from streams.stage import Run

GRID = 1000


def flat(bids, asks):
    return np.array([p for p, _ in bids] + [q for _, q in bids] + [p for p, _ in asks] + [q for _, q in asks])


def a_market(seed, bins, levels=30):
    """Records of one market, per bin: books as (event_ms, bids, asks), trades as (event_ms, price, size, is_buy)."""
    rng = random.Random(seed)
    mid, tick = 50_000.0, 10.0
    out = []
    for index in range(bins):
        books, trades = [], []
        for _ in range(rng.choice((0, 0, 1, 3, 6))):
            mid += rng.choice((-10.0, 0.0, 10.0))
            depth = rng.choice((levels, levels, 2, 1))
            at = index * GRID + rng.randrange(GRID)
            bids = [(mid - 5 - i * tick, rng.random() + 0.01) for i in range(depth)]
            asks = [(mid + 5 + i * tick, rng.random() + 0.01) for i in range(rng.choice((depth, levels)))]
            books.append((at, bids, asks))
        for _ in range(rng.choice((0, 0, 1, 7))):
            at = index * GRID + rng.randrange(GRID)
            trades.append((at, mid + rng.choice((-5, 5)), rng.random() + 0.01, rng.random() < 0.5))
        books.sort(key=lambda book: book[0])
        out.append((books, trades))
    return out


def run_of(market, window):
    run = Run(window)
    for index, (books, trades) in enumerate(market):
        row = np.zeros(kernels.ROW)
        for at, bids, asks in books:
            kernels.apply_book(row, flat(bids, asks), len(bids), len(asks), float(at))
        for at, price, size, is_buy in trades:
            kernels.apply_trade(row, price, size, is_buy, float(at))
        run.push(index, row)
    return run


def vector_of(run, bin_ms):
    out = np.zeros(kernels.OUT)
    run.vector(bin_ms, GRID, out)
    return dict(zip((*NAMES, "mid", "spread"), out.tolist(), strict=True))


def share(plus, minus):
    return (plus - minus) / (plus + minus) if plus + minus else 0.0


class Oracle:
    """The definitions of `docs/features-schema.md`, recomputed from the raw records of the run."""

    def __init__(self, market, window):
        self.market = market[-window:]
        self.end_ms = len(market) * GRID
        self.books = [book for books, _ in self.market for book in books]

    def last_book(self, back=0):
        for books, _ in reversed(self.market[: len(self.market) - back]):
            if books:
                return books[-1]
        return None

    def mid(self, back=0):
        if back >= len(self.market):
            return math.nan
        book = self.last_book(back)
        return (book[1][0][0] + book[2][0][0]) / 2 if book else math.nan

    def expected(self):
        _, bids, asks = self.last_book()
        bid, ask = bids[0][0], asks[0][0]
        mid = (bid + ask) / 2
        trades = lambda n: [t for _, ts in self.market[-n:] for t in ts]  # noqa: E731
        prices = [t[1] for t in trades(len(self.market))][-5:]
        ofi = lambda n: sum(self.flow(books) for books, _ in self.market[-n:])  # noqa: E731
        tops = lambda n: [books[-1] for books, _ in self.market[-n:] if books] or [self.last_book()]  # noqa: E731
        depth = lambda n: np.mean([b[1][0][1] + b[2][0][1] for b in tops(n)])  # noqa: E731
        bought = lambda n: sum(t[2] for t in trades(n) if t[3])  # noqa: E731
        sold = lambda n: sum(t[2] for t in trades(n) if not t[3])  # noqa: E731
        return {
            "mid": mid,
            "spread": ask - bid,
            "spread_bp": (ask - bid) / mid * 1e4,
            "return_1s": 1e4 * math.log(mid / self.mid(1)) if not math.isnan(self.mid(1)) else math.nan,
            "return_30s": 1e4 * math.log(mid / self.mid(30)) if not math.isnan(self.mid(30)) else math.nan,
            "imbalance_l1": share(bids[0][1], asks[0][1]),
            "imbalance_l5": share(sum(q for _, q in bids[:5]), sum(q for _, q in asks[:5])),
            "imbalance_l15": share(sum(q for _, q in bids[:15]), sum(q for _, q in asks[:15])),
            "microprice_bp": ((bid * asks[0][1] + ask * bids[0][1]) / (bids[0][1] + asks[0][1]) - mid) / mid * 1e4,
            "ofi_1s": ofi(1) / depth(1),
            "ofi_5s": ofi(5) / depth(5),
            "ofi_30s": ofi(30) / depth(30),
            "trade_flow_5s": share(bought(5), sold(5)),
            "trade_flow_30s": share(bought(30), sold(30)),
            "is_silent_5s": float(not trades(5)),
            "buy_share_30s": np.mean([t[3] for t in trades(30)]) if trades(30) else math.nan,
            "volatility_5_trades_bp": np.std(prices) / mid * 1e4 if len(prices) > 1 else math.nan,
            "volatility_w_bp": self.volatility(),
            "books_5s": sum(len(books) for books, _ in self.market[-5:]) / 5,
            "book_age_s": (self.end_ms - self.last_book()[0]) / 1000,
        }

    @staticmethod
    def flow(books):
        total = 0.0
        for (_, old_bids, old_asks), (_, bids, asks) in itertools.pairwise(books):
            (pb0, qb0), (pa0, qa0), (pb, qb), (pa, qa) = old_bids[0], old_asks[0], bids[0], asks[0]
            total += (pb >= pb0) * qb - (pb <= pb0) * qb0 - (pa <= pa0) * qa + (pa >= pa0) * qa0
        return total

    def volatility(self):
        mids = [self.mid(back) for back in range(len(self.market) - 1, -1, -1)]
        changes = [(b - a) / a for a, b in itertools.pairwise(mids) if a > 0 and b > 0]
        return 1e4 * math.sqrt(np.mean(np.square(changes))) if changes else math.nan


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("window", [40, 300])
def test_vector_equals_the_slow_definition(seed, window):
    market = a_market(seed, 90)
    got = vector_of(run_of(market, window), 90 * GRID)
    for name, expected in Oracle(market, window).expected().items():
        assert got[name] == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), name


def test_names_and_positions_agree():
    assert len(FEATURES) == kernels.N_FEATURES
    assert len(set(NAMES)) == len(NAMES)


def test_columns_give_the_bits_of_the_live_calls():
    market = a_market(5, 700)
    window, width = 300, 120
    kinds, times, books, counts, trades = [], [], [], [], []
    for bin_books, bin_trades in market:
        for at, bids, asks in bin_books:
            kinds.append(0)
            times.append(at)
            line = np.zeros(width)
            line[: 2 * (len(bids) + len(asks))] = flat(bids, asks)
            books.append(line)
            counts.append((len(bids), len(asks)))
        for at, price, size, is_buy in bin_trades:
            kinds.append(1)
            times.append(at)
            trades.append((price, size, float(is_buy)))
    first = times[0] // GRID
    rows = np.zeros((700, kernels.OUT))
    n = kernels.run_columns(
        np.array(kinds, np.int8), np.array(times), np.array(books), np.array(counts, np.int32), np.array(trades),
        GRID, window, 60.0, rows,
    )  # fmt: skip
    run = Run(window)
    out = np.zeros(kernels.OUT)
    for index, (bin_books, bin_trades) in enumerate(market[first : first + n]):
        row = np.zeros(kernels.ROW)
        for at, bids, asks in bin_books:
            kernels.apply_book(row, flat(bids, asks), len(bids), len(asks), float(at))
        for at, price, size, is_buy in bin_trades:
            kernels.apply_trade(row, price, size, is_buy, float(at))
        run.push(first + index, row)
        run.vector((first + index + 1) * GRID, GRID, out)
        assert out.tobytes() == rows[index].tobytes(), index


def test_prices_three_times_as_high_change_no_feature():
    market = a_market(3, 80)
    tripled = [
        (
            [(at, [(3 * p, q) for p, q in bids], [(3 * p, q) for p, q in asks]) for at, bids, asks in books],
            [(at, 3 * price, size, is_buy) for at, price, size, is_buy in trades],
        )
        for books, trades in market
    ]
    one, other = vector_of(run_of(market, 60), 80 * GRID), vector_of(run_of(tripled, 60), 80 * GRID)
    for name in NAMES:
        assert other[name] == pytest.approx(one[name], rel=1e-6, abs=1e-9, nan_ok=True), name


def test_a_book_with_an_empty_side_gives_no_price():
    run = Run(10)
    row = np.zeros(kernels.ROW)
    kernels.apply_book(row, flat([(100.0, 1.0)], [(101.0, 1.0)]), 1, 1, 10.0)
    kernels.apply_book(row, flat([(100.0, 1.0)], []), 1, 0, 20.0)
    run.push(0, row)
    got = vector_of(run, 1000)
    assert math.isnan(got["mid"])
    assert math.isnan(got["imbalance_l1"])
    assert got["trade_flow_30s"] == 0.0


def test_an_old_book_is_not_carried_for_ever():
    run = Run(300)
    row = np.zeros(kernels.ROW)
    kernels.apply_book(row, flat([(100.0, 1.0)], [(101.0, 1.0)]), 1, 1, 10.0)
    run.push(0, row)
    for index in range(1, 100):
        run.push(index, np.zeros(kernels.ROW))
        got = vector_of(run, (index + 1) * 1000)
        assert math.isnan(got["mid"]) == (got["book_age_s"] > 60.0)
