"""The numeric kernels: book and trade update, bin close, feature vector. All in this one file, compiled by numba.

The live stage calls them once per record; `run_columns` calls the same functions in a compiled loop for backtests and
training sets. No fastmath: the same bits everywhere. Never an infinite-memory sum: a vector is recomputed from the
oldest bin of the run to the newest each time.

A bin is one row of `ROW` doubles. NaN inside the kernels means null.
"""

# ruff: noqa: C901, PLR0912, PLR0915 a kernel is one pass: numba calls inside it would hide the order of the sums

import math

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]

# One bin: the book half, its best five levels, the trade half.
N_BOOKS, BID, ASK, BID_SIZE, ASK_SIZE, BID_5, ASK_5, BID_15, ASK_15, BID_ALL, ASK_ALL = range(11)
OFI, MOFI, IMBALANCE_SUM, BOOK_MS = 11, 12, 13, 14
LEVELS = 15
DEPTH = 5
TRADES = LEVELS + 4 * DEPTH
N_TRADES, N_BUYS, BOUGHT, SOLD, BOUGHT_FUNDS, SOLD_FUNDS, LAST_5, TRADE_MS = (
    TRADES,
    TRADES + 1,
    TRADES + 2,
    TRADES + 3,
    TRADES + 4,
    TRADES + 5,
    TRADES + 6,
    TRADES + 11,
)
ROW = TRADES + 12

N_FEATURES = 36
MID, SPREAD = N_FEATURES, N_FEATURES + 1
"""Where `vector` leaves mid and spread, beside the features."""
OUT = N_FEATURES + 2

_EPSILON_BP = 0.01
_TRADE_AGE_CAP_S = 60.0
_QUARTER_MS = 900_000


@njit(cache=True)
def apply_book(row: Floats, book: Floats, bids: int, asks: int, event_ms: float) -> None:
    """Fold one order book into an open bin.

    `book` is flat: `bids` bid prices, `bids` bid sizes, `asks` ask prices, `asks` ask sizes, best first. Order-flow
    imbalance starts anew in each bin (its first book only sets the state). A book with an empty side leaves the bin
    without a price until the next whole one. A book older than the bin's last one is passed over.
    """
    if row[N_BOOKS] > 0.0 and event_ms < row[BOOK_MS]:
        return
    row[BOOK_MS] = event_ms
    had_price = row[N_BOOKS] > 0.0 and row[BID] > 0.0
    row[N_BOOKS] += 1.0
    if bids == 0 or asks == 0:
        row[BID] = 0.0
        row[ASK] = 0.0
        row[LEVELS:TRADES] = 0.0
        return
    ask_at = 2 * bids
    bid, bid_size = book[0], book[bids]
    ask, ask_size = book[ask_at], book[ask_at + asks]
    both = min(bids, asks)
    bid_sum = 0.0
    ask_sum = 0.0
    for i in range(both):
        bid_sum += book[bids + i]
        ask_sum += book[ask_at + asks + i]
        if i == 4:
            row[BID_5] = bid_sum
            row[ASK_5] = ask_sum
        elif i == 14:
            row[BID_15] = bid_sum
            row[ASK_15] = ask_sum
    for i in range(both, bids):
        bid_sum += book[bids + i]
        if i == 4:
            row[BID_5] = bid_sum
        elif i == 14:
            row[BID_15] = bid_sum
    for i in range(both, asks):
        ask_sum += book[ask_at + asks + i]
        if i == 4:
            row[ASK_5] = ask_sum
        elif i == 14:
            row[ASK_15] = ask_sum
    if bids < 5:
        row[BID_5] = bid_sum
    if bids < 15:
        row[BID_15] = bid_sum
    if asks < 5:
        row[ASK_5] = ask_sum
    if asks < 15:
        row[ASK_15] = ask_sum
    row[BID_ALL] = bid_sum
    row[ASK_ALL] = ask_sum
    if had_price:
        row[OFI] += (
            (bid_size if bid >= row[BID] else 0.0)
            - (row[BID_SIZE] if bid <= row[BID] else 0.0)
            - (ask_size if ask <= row[ASK] else 0.0)
            + (row[ASK_SIZE] if ask >= row[ASK] else 0.0)
        )
        row[MOFI] += _multi_level_flow(row, book, bids, asks)
    row[BID] = bid
    row[ASK] = ask
    row[BID_SIZE] = bid_size
    row[ASK_SIZE] = ask_size
    if bid_size + ask_size > 0.0:
        row[IMBALANCE_SUM] += (bid_size - ask_size) / (bid_size + ask_size)
    for i in range(DEPTH):
        has_bid = i < bids
        has_ask = i < asks
        row[LEVELS + i] = book[i] if has_bid else 0.0
        row[LEVELS + DEPTH + i] = book[bids + i] if has_bid else 0.0
        row[LEVELS + 2 * DEPTH + i] = book[ask_at + i] if has_ask else 0.0
        row[LEVELS + 3 * DEPTH + i] = book[ask_at + asks + i] if has_ask else 0.0


@njit(cache=True)
def _multi_level_flow(row: Floats, book: Floats, bids: int, asks: int) -> float:
    """Order-flow imbalance of levels 1 to 5 against the bin's last book, each level over its own depth, mean."""
    ask_at = 2 * bids
    levels = min(DEPTH, bids, asks)
    total = 0.0
    for i in range(levels):
        bid, bid_size = book[i], book[bids + i]
        ask, ask_size = book[ask_at + i], book[ask_at + asks + i]
        old_bid, old_bid_size = row[LEVELS + i], row[LEVELS + DEPTH + i]
        old_ask, old_ask_size = row[LEVELS + 2 * DEPTH + i], row[LEVELS + 3 * DEPTH + i]
        if old_bid <= 0.0 or old_ask <= 0.0:
            continue
        flow = (
            (bid_size if bid >= old_bid else 0.0)
            - (old_bid_size if bid <= old_bid else 0.0)
            - (ask_size if ask <= old_ask else 0.0)
            + (old_ask_size if ask >= old_ask else 0.0)
        )
        depth = 0.5 * (bid_size + ask_size + old_bid_size + old_ask_size)
        if depth > 0.0:
            total += flow / depth
    return total / levels


@njit(cache=True)
def apply_trade(row: Floats, price: float, size: float, is_buy: bool, event_ms: float) -> None:  # noqa: FBT001 numba takes positional arguments
    """Fold one trade into an open bin, in arrival order."""
    row[N_TRADES] += 1.0
    if is_buy:
        row[N_BUYS] += 1.0
        row[BOUGHT] += size
        row[BOUGHT_FUNDS] += price * size
    else:
        row[SOLD] += size
        row[SOLD_FUNDS] += price * size
    for i in range(4):
        row[LAST_5 + i] = row[LAST_5 + i + 1]
    row[LAST_5 + 4] = price
    row[TRADE_MS] = max(row[TRADE_MS], event_ms)


@njit(cache=True)
def _signed_share(plus: float, minus: float) -> float:
    """(plus - minus) / (plus + minus), 0 where both are 0."""
    return (plus - minus) / (plus + minus) if plus + minus > 0.0 else 0.0


@njit(cache=True)
def _log_return_bp(now: float, then: float) -> float:
    return 10_000.0 * math.log(now / then) if then > 0.0 else math.nan


@njit(cache=True)
def own_mid(row: Floats) -> float:
    """Mid price of a closed bin's own last book: 0 without a book, NaN when the book had an empty side."""
    if row[N_BOOKS] == 0.0:
        return 0.0
    return 0.5 * (row[BID] + row[ASK]) if row[BID] > 0.0 else math.nan


@njit(cache=True)
def _mid_at(mids: Floats, last: int) -> float:
    """Mid price at the end of bin `last` of the run: its own book's or the last one's before it; NaN without one."""
    for i in range(last, -1, -1):
        mid = mids[i]
        if mid != 0.0:
            return float(mid)
    return math.nan


@njit(cache=True)
def _squares_bp(mids: Floats, first: int, last: int, mid: float) -> tuple[float, int, float]:
    """Sum of squared 1-bin returns of bins [first, last), their count, and the mid after them; `mid` stands before."""
    total = 0.0
    count = 0
    for i in range(first, last):
        now = mids[i]
        if now == 0.0:
            now = mid
        if now > 0.0 and mid > 0.0:
            change = (now - mid) / mid
            total += change * change
            count += 1
        mid = now
    return total, count, mid


@njit(cache=True)
def _root_mean_square_bp(total: float, count: int) -> float:
    return 10_000.0 * math.sqrt(total / count) if count > 0 else math.nan


@njit(cache=True)
def _last_trades_deviation(run: Floats, bins: int) -> float:
    """Population standard deviation of the last five trade prices of the run; NaN below two trades."""
    total = 0.0
    square = 0.0
    anchor = 0.0
    found = 0
    for i in range(bins - 1, -1, -1):
        own = min(5 - found, int(run[i, N_TRADES]))
        for j in range(own):
            price = run[i, LAST_5 + 4 - j]
            if found == 0:
                anchor = price
            total += price - anchor
            square += (price - anchor) * (price - anchor)
            found += 1
        if found == 5:
            break
    if found < 2:
        return math.nan
    mean = total / found
    return math.sqrt(max(0.0, square / found - mean * mean))


@njit(cache=True)
def _tick(row: Floats) -> float:
    """Smallest gap between neighbouring levels of the best five on either side; NaN with one level a side."""
    best = math.inf
    for side in range(2):
        at = LEVELS + 2 * DEPTH * side
        for i in range(DEPTH - 1):
            if row[at + i + 1] > 0.0:
                best = min(best, abs(row[at + i + 1] - row[at + i]))
    return best if best < math.inf and best > 0.0 else math.nan


@njit(cache=True)
def _width(row: Floats) -> float:
    """Distance between the outermost of the best five levels; NaN with one level a side."""
    bid = row[LEVELS]
    ask = row[LEVELS + 2 * DEPTH]
    for i in range(1, DEPTH):
        if row[LEVELS + i] > 0.0:
            bid = row[LEVELS + i]
        if row[LEVELS + 2 * DEPTH + i] > 0.0:
            ask = row[LEVELS + 2 * DEPTH + i]
    return ask - bid if bid < row[LEVELS] and ask > row[LEVELS + 2 * DEPTH] else math.nan


@njit(cache=True)
def vector(run: Floats, mids: Floats, bins: int, bin_ms: int, grid_ms: int, book_age_cap_s: float, out: Floats) -> None:
    """Compute the feature vector at the end of the newest of `bins` rows of `run` (oldest first) into `out`.

    `mids[i]` is `own_mid(run[i])`, kept beside the rows so that the pass over the whole run reads 8 bytes a bin.

    `out` holds `OUT` doubles: the features in the order of `streams.market.features`, then mid and spread.
    """
    out[:] = math.nan
    per_s = 1000.0 / grid_ms
    one, five, thirty = int(per_s), int(5 * per_s), int(30 * per_s)

    # Trades, and what needs no book.
    trades = buys = 0.0
    trade_ms = 0.0
    for i in range(bins - 1, -1, -1):
        if run[i, N_TRADES] > 0.0:
            trade_ms = run[i, TRADE_MS]
            break
    for span in range(3):
        start = max(0, bins - (one if span == 0 else five if span == 1 else thirty))
        bought = sold = trades = buys = 0.0
        for i in range(start, bins):
            bought += run[i, BOUGHT]
            sold += run[i, SOLD]
            trades += run[i, N_TRADES]
            buys += run[i, N_BUYS]
        out[20 + span] = _signed_share(bought, sold)
        if span == 1:
            out[23] = 1.0 if trades == 0.0 else 0.0
    out[24] = buys / trades if trades > 0.0 else math.nan
    out[32] = min(_TRADE_AGE_CAP_S, max(0.0, (bin_ms - trade_ms) / 1000.0)) if trade_ms > 0.0 else _TRADE_AGE_CAP_S
    out[35] = (bin_ms % _QUARTER_MS) / _QUARTER_MS

    # The last book of the run.
    last = -1
    for i in range(bins - 1, -1, -1):
        if run[i, N_BOOKS] > 0.0:
            last = i
            break
    if last < 0:
        return
    row = run[last]
    age_s = max(0.0, (bin_ms - row[BOOK_MS]) / 1000.0)
    out[33] = age_s
    if row[BID] <= 0.0 or age_s > book_age_cap_s:
        return
    bid, ask = row[BID], row[ASK]
    mid = 0.5 * (bid + ask)
    spread = ask - bid
    out[MID] = mid
    out[SPREAD] = spread
    per_mid = 10_000.0 / mid
    tick = _tick(row)
    out[0] = spread * per_mid
    out[1] = spread / tick
    out[2] = tick * per_mid
    for j in range(5):
        seconds = 1 if j == 0 else 5 if j == 1 else 15 if j == 2 else 30 if j == 3 else 60
        back = bins - 1 - int(seconds * per_s)
        if back >= 0:
            out[3 + j] = _log_return_bp(mid, _mid_at(mids, back))
    out[8] = _signed_share(row[BID_SIZE], row[ASK_SIZE])
    out[9] = _signed_share(row[BID_5], row[ASK_5])
    out[10] = _signed_share(row[BID_15], row[ASK_15])
    if row[BID_SIZE] + row[ASK_SIZE] > 0.0:
        micro = (bid * row[ASK_SIZE] + ask * row[BID_SIZE]) / (row[BID_SIZE] + row[ASK_SIZE])
        out[13] = (micro - mid) * per_mid

    # Order flow.
    for span in range(3):
        start = max(0, bins - (one if span == 0 else five if span == 1 else thirty))
        flow = mflow = depth = imbalance = books = priced = 0.0
        for i in range(start, bins):
            flow += run[i, OFI]
            mflow += run[i, MOFI]
            imbalance += run[i, IMBALANCE_SUM]
            books += run[i, N_BOOKS]
            if run[i, N_BOOKS] > 0.0:
                depth += run[i, BID_SIZE] + run[i, ASK_SIZE]
                priced += 1.0
        if priced == 0.0:
            depth = row[BID_SIZE] + row[ASK_SIZE]
            priced = 1.0
        out[14 + span] = flow / (depth / priced) if depth > 0.0 else math.nan
        out[17 + span] = mflow
        if span < 2:
            out[11 + span] = imbalance / books if books > 0.0 else math.nan
        if span == 1:
            out[34] = books / 5.0

    # Volatility.
    deviation = _last_trades_deviation(run, bins)
    out[25] = deviation * per_mid
    edge_60, edge_30, edge_5 = (
        max(1, bins - int(60 * per_s)),
        max(1, bins - thirty),
        max(1, bins - five),
    )
    old, old_n, at_mid = _squares_bp(mids, 1, edge_60, mids[0] if mids[0] != 0.0 else math.nan)
    to_30, to_30_n, at_mid = _squares_bp(mids, edge_60, edge_30, at_mid)
    to_5, to_5_n, at_mid = _squares_bp(mids, edge_30, edge_5, at_mid)
    new, new_n, at_mid = _squares_bp(mids, edge_5, bins, at_mid)
    whole = _root_mean_square_bp(old + to_30 + to_5 + new, old_n + to_30_n + to_5_n + new_n)
    out[26] = math.log((_root_mean_square_bp(new, new_n) + _EPSILON_BP) / (whole + _EPSILON_BP))
    out[27] = math.log((_root_mean_square_bp(to_5 + new, to_5_n + new_n) + _EPSILON_BP) / (whole + _EPSILON_BP))
    out[28] = math.log(
        (_root_mean_square_bp(to_30 + to_5 + new, to_30_n + to_5_n + new_n) + _EPSILON_BP) / (whole + _EPSILON_BP)
    )
    out[29] = whole

    # Depth.
    near = row[BID_5] + row[ASK_5]
    if near > 0.0:
        out[30] = math.log((row[BID_ALL] + row[ASK_ALL]) / near)
    out[31] = _width(row) * per_mid


def warm_up() -> None:
    """Compile (or load) what the live stage calls: seconds in a cold process, best spent before a record waits."""
    row, out = np.zeros(ROW), np.zeros(OUT)
    apply_book(row, np.array([100.0, 1.0, 101.0, 1.0]), 1, 1, 1.0)
    apply_trade(row, 100.0, 1.0, True, 1.0)
    vector(row.reshape(1, -1), np.array([own_mid(row)]), 1, 1000, 1000, 60.0, out)


@njit(cache=True)
def _close(
    ring: Floats,
    mids: Floats,
    at: int,
    window: int,
    bin_ms: int,
    grid_ms: int,
    book_age_cap_s: float,
    out: Floats,
) -> None:
    """Close bin `at` of a ring and compute its vector."""
    mids[at] = own_mid(ring[at])
    first = max(0, at + 1 - window)
    vector(ring[first : at + 1], mids[first : at + 1], at + 1 - first, bin_ms, grid_ms, book_age_cap_s, out)


@njit(cache=True)
def run_columns(
    kinds: npt.NDArray[np.int8],
    event_ms: npt.NDArray[np.int64],
    books: Floats,
    counts: npt.NDArray[np.int32],
    trades: Floats,
    grid_ms: int,
    window: int,
    book_age_cap_s: float,
    rows: Floats,
) -> int:
    """Run one market's records, in log order, through the kernels; one row per bin from first to last.

    `kinds[i]` is 0 for a book, 1 for a trade; the j-th book is `books[j]` (flat, padded to the widest) with
    `counts[j]` = (bids, asks); the j-th trade is `trades[j]` = (price, size, is buy). Records of an earlier bin than
    the open one are passed over. Row k of `rows` takes bin k's `OUT` doubles; returns the number of bins.
    """
    first_bin = event_ms[0] // grid_ms
    ring = np.zeros((2 * window, ROW))
    mids = np.zeros(2 * window)
    at = 0
    book = trade = 0
    current = first_bin
    n = 0
    for i in range(len(kinds)):
        bin_index = event_ms[i] // grid_ms
        while current < bin_index:
            _close(ring, mids, at, window, (current + 1) * grid_ms, grid_ms, book_age_cap_s, rows[n])
            n += 1
            current += 1
            at += 1
            if at == 2 * window:
                ring[: window - 1] = ring[window + 1 :]
                mids[: window - 1] = mids[window + 1 :]
                at = window - 1
            ring[at] = 0.0
        if kinds[i] == 0:
            if bin_index == current:
                apply_book(ring[at], books[book], counts[book, 0], counts[book, 1], float(event_ms[i]))
            book += 1
        else:
            if bin_index == current:
                apply_trade(ring[at], trades[trade, 0], trades[trade, 1], trades[trade, 2] > 0.0, float(event_ms[i]))
            trade += 1
    _close(ring, mids, at, window, (current + 1) * grid_ms, grid_ms, book_age_cap_s, rows[n])
    return n + 1
