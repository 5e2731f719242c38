"""One market live: headline, order book, trades, price chart. Called by the page's fragments; reads only."""

import plotly.graph_objects as go
import streamlit as st
from sqlmodel import Session

from dashboard import formats
from dashboard.charts import QUIET, layout_of
from dashboard.markup import Cell, Figure, figures, heading, note, table
from dashboard.words import Language, word
from infra.tables import view_questions as questions
from infra.tables.view_questions import Row

BOOK_ROWS = 10
TRADE_ROWS = 22
CHART_BINS = 300


def name_of(row: Row, language: Language) -> str:
    """A market's code with its name."""
    return f"{row['market']} {row['korean_name' if language == 'ko' else 'english_name'] or ''}".strip()


def headline(session: Session, row: Row, language: Language) -> None:
    """Name, last price, spread and time of the chosen market."""
    tick, bid, ask, mid = row["tick_size"], row["bid"], row["ask"], row["mid"]
    spread = None
    if bid is not None and ask is not None:
        mid, spread = (bid + ask) / 2, round(ask - bid, 8)
    relative = formats.percent_of_bp(1e4 * spread / mid if spread is not None and mid else None, is_signed=False)
    warned = word("caution", language) if row["is_caution"] or row["is_warning"] else ""
    last = next(iter(questions.recent_trades(session, row["market"], 1, row["exchange"])), None)
    text, kind = (formats.DASH, "") if last is None else _trade_price(last, tick)
    figures(
        language,
        [
            Figure("market-name", word("market", language), name_of(row, language), note=warned),
            Figure("last-price", word("last_price", language), text, kind),
            Figure("mid", word("mid", language), formats.price(mid)),
            Figure("spread", word("spread", language), f"{formats.price(spread, tick)} ({relative})"),
            Figure("market-time", word("korean_time", language), formats.clock(row["exchange_ms"] or row["bin_ms"])),
        ],
    )


def _trade_price(trade: Row, tick: str | None) -> tuple[str, str]:
    """The price of an execution and its class: red ▲ where the taker bought, blue ▼ where it sold."""
    mark, kind = ("▲", "rise") if trade["is_buy"] else ("▼", "fall")
    return f"{mark} {formats.price(trade['price'], tick)}", kind


def order_book(session: Session, row: Row, language: Language) -> None:
    """Best levels: asks above in blue, bids below in red, a bar for the size."""
    heading("book", language)
    book = questions.latest_book(session, row["market"], row["exchange"])
    if book is None:
        note(word("waiting", language), language)
        return
    levels, tick = book["levels"], row["tick_size"]
    asks = list(zip(levels["ask_prices"], levels["ask_sizes"], strict=True))
    bids = list(zip(levels["bid_prices"], levels["bid_sizes"], strict=True))
    largest = max((size for _, size in asks[:BOOK_ROWS] + bids[:BOOK_ROWS]), default=0.0) or 1.0
    empty = Cell("", "number")
    rows = [
        [
            Cell(formats.quantity(size), "number bar ask", 100 * size / largest),
            Cell(formats.price(price, tick), "number price ask fall"),
            empty,
        ]
        for price, size in reversed(asks[:BOOK_ROWS])
    ]
    rows += [
        [
            empty,
            Cell(formats.price(price, tick), "number price bid rise"),
            Cell(formats.quantity(size), "number bar bid", 100 * size / largest),
        ]
        for price, size in bids[:BOOK_ROWS]
    ]
    heads = [word(key, language) for key in ("ask_size", "price", "bid_size")]
    table("book", language, heads, rows, data=str(book["exchange_ms"]))
    total = {"ask": sum(size for _, size in asks), "bid": sum(size for _, size in bids)}
    shown = {side: formats.quantity(round(amount, 8)) for side, amount in total.items()}
    note(word("book_total", language, levels=max(len(asks), len(bids)), **shown), language)


def trades(session: Session, row: Row, language: Language) -> None:
    """Executions by others, newest first."""
    heading("trades", language)
    found = questions.recent_trades(session, row["market"], TRADE_ROWS, row["exchange"])
    rows = []
    for trade in found:
        text, kind = _trade_price(trade, row["tick_size"])
        shown = [Cell(formats.clock(trade["exchange_ms"])), Cell(text, f"number {kind}")]
        rows.append([*shown, Cell(formats.quantity(trade["size"]), "number")])
    heads = [word(key, language) for key in ("time", "price", "size")]
    table("trades", language, heads, rows, data=str(found[0]["trade_id"]) if found else "")


def price_chart(session: Session, row: Row, language: Language) -> None:
    """Mid price of the last minutes."""
    heading("chart", language, word("last_minutes", language, n=CHART_BINS // 60))
    points = questions.mids(session, row["market"], CHART_BINS, row["exchange"])
    times = [formats.axis_time(point["bin_ms"]) for point in points]
    figure = go.Figure(go.Scatter(x=times, y=[point["mid"] for point in points], line={"color": "#888", "width": 1.5}))
    figure.update_layout(**layout_of(row["market"]), yaxis_tickformat=",")
    st.plotly_chart(figure, key="price-chart", config=QUIET)
