"""The parts of the first page: each draws one thing from the views database. Nothing is computed that trades use."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from sqlmodel import Session

from dashboard import formats
from dashboard.words import Language, word
from infra.tables import views
from streams.market.features import FEATURES

RED, BLUE = "#d24f45", "#1261c4"
_ROWS = 10
_CHART = {"height": 260, "margin": {"l": 8, "r": 8, "t": 8, "b": 8}, "legend": {"orientation": "h"}}
_QUIET = {"displayModeBar": False}

Row = dict[str, Any]


def headline(row: Row, language: Language) -> None:
    """Price and spread of the chosen market."""
    tick = row["tick_size"]
    mid, spread = row["mid"], row["spread"]
    one, two, three = st.columns(3)
    one.metric(word("mid", language), formats.price(mid, None))
    relative = formats.percent_of_bp(1e4 * spread / mid) if mid and spread is not None else formats.DASH
    two.metric(word("spread", language), formats.price(spread, tick), relative, delta_color="off")
    three.metric(word("time", language), formats.clock(row["exchange_ms"] or row["bin_ms"]) + " KST")


def order_book(session: Session, row: Row, language: Language) -> None:
    """Best levels: asks above in blue, bids below in red, a bar for the size."""
    st.subheader(word("book", language))
    book = views.latest_book(session, row["market"], row["exchange"])
    if book is None:
        st.caption(word("waiting", language))
        return
    levels = book["levels"]
    asks = list(zip(levels["ask_prices"], levels["ask_sizes"], strict=True))[:_ROWS]
    bids = list(zip(levels["bid_prices"], levels["bid_sizes"], strict=True))[:_ROWS]
    largest = max((size for _, size in asks + bids), default=1.0) or 1.0
    lines = [_level(price, size, largest, BLUE, row["tick_size"]) for price, size in reversed(asks)]
    lines += [_level(price, size, largest, RED, row["tick_size"]) for price, size in bids]
    head = f"<tr><th>{word('price', language)}</th><th>{word('size', language)}</th></tr>"
    style = "width:100%;font-variant-numeric:tabular-nums;font-size:0.85rem;border-collapse:collapse"
    st.html(f'<table class="book" data-ms="{book["exchange_ms"]}" style="{style}">{head}{"".join(lines)}</table>')


def _level(price: float, size: float, largest: float, colour: str, tick: str | None) -> str:
    share = 100 * size / largest
    bar = f"background:linear-gradient(to left,{colour}33 {share:.1f}%,transparent {share:.1f}%)"
    return (
        f'<tr><td style="color:{colour};text-align:right;padding:1px 8px">{formats.price(price, tick)}</td>'
        f'<td style="text-align:right;padding:1px 8px;{bar}">{formats.quantity(size)}</td></tr>'
    )


def trades(session: Session, row: Row, language: Language) -> None:
    """Executions by others, newest first."""
    st.subheader(word("trades", language))
    lines = []
    for trade in views.recent_trades(session, row["market"], 2 * _ROWS, row["exchange"]):
        colour, mark = (RED, "▲") if trade["is_buy"] else (BLUE, "▼")
        lines.append(
            f'<tr><td style="padding:1px 8px">{formats.clock(trade["exchange_ms"])}</td>'
            f'<td style="color:{colour};text-align:right;padding:1px 8px">{mark} '
            f"{formats.price(trade['price'], row['tick_size'])}</td>"
            f'<td style="text-align:right;padding:1px 8px">{formats.quantity(trade["size"])}</td></tr>'
        )
    style = "width:100%;font-variant-numeric:tabular-nums;font-size:0.85rem"
    st.html(f'<table class="trades" style="{style}">{"".join(lines)}</table>')


def price_chart(session: Session, row: Row, language: Language) -> None:
    """Mid price of the last minutes."""
    st.subheader(word("chart", language))
    points = views.mids(session, row["market"], 300, row["exchange"])
    times = [_kst(point["bin_ms"]) for point in points]
    figure = go.Figure(go.Scatter(x=times, y=[point["mid"] for point in points], line={"color": "#555", "width": 1.5}))
    figure.update_layout(**_CHART)
    st.plotly_chart(figure, key="price-chart", config=_QUIET)


def forecast(session: Session, row: Row, horizon_ms: int, language: Language) -> None:
    """Forecast of each moment against what happened, and the skill against "no change"."""
    st.subheader(f"{word('signal', language)} · {horizon_ms // 1000} {word('seconds', language)}")
    signals = views.recent_signals(session, row["market"], 300, horizon_ms, row["exchange"])[::-1]
    times = [_kst(signal["bin_ms"]) for signal in signals]
    figure = go.Figure()
    for name, field, colour in (("outcome", "outcome_bp", "#999"), ("forecast", "expected_bp", "#0a7f5a")):
        percent = [None if signal[field] is None else signal[field] / 100 for signal in signals]
        figure.add_scatter(x=times, y=percent, name=word(name, language), line={"color": colour, "width": 1.5})
    figure.update_layout(**_CHART, yaxis_ticksuffix=" %")
    st.plotly_chart(figure, key="forecast-chart", config=_QUIET)
    known = [(signal["outcome_bp"], signal["expected_bp"]) for signal in signals if signal["outcome_bp"] is not None]
    base = sum(outcome**2 for outcome, _ in known)
    if not base:
        st.caption(word("no_outcome", language))
        return
    skill = 1 - sum((outcome - expected) ** 2 for outcome, expected in known) / base
    st.caption(f"{word('skill', language)}: **{skill:+.3f}** · {word('skill_note', language, n=len(known))}")


def features(row: Row, language: Language) -> None:
    """The newest feature vector."""
    st.subheader(word("features", language))
    values: Sequence[float | None] = row["features"] or []
    _table(
        [
            {
                word("name", language): spec.name,
                word("value", language): formats.number(value),
                word("unit", language): spec.unit,
            }
            for spec, value in zip(FEATURES, values, strict=False)
        ],
        language,
    )


def money(session: Session, language: Language) -> None:
    """Each account's money, net of fees, and its sign of life."""
    st.subheader(word("money", language))
    accounts = views.money(session)
    if not accounts:
        st.caption(word("waiting", language))
    for account in accounts:
        switch = word("trading_on" if account["is_trading"] else "trading_off", language)
        st.caption(f"**{escape(account['account'])}** · {word('paper', language)} · {switch}")
        columns = st.columns(4)
        columns[0].metric(word("free", language), formats.won(account["free"]))
        columns[1].metric(word("realised", language), formats.signed_won(account["realised"]))
        columns[2].metric(word("unrealised", language), formats.signed_won(account["unrealised"]))
        columns[3].metric(word("fees", language), formats.won(account["paid_fees"]))
        st.caption(
            word(
                "sign_of_life",
                language,
                n=f"{account['forecasts']:,}",
                best=formats.percent_of_bp(account["best_expected_bp"]),
                needed=formats.percent_of_bp(account["best_needed_bp"]),
                entries=account["entries"],
            )
        )


def positions(session: Session, language: Language) -> None:
    """What is held."""
    st.subheader(word("positions", language))
    _table(
        [
            {
                word("market", language): row["market"],
                word("quantity", language): formats.quantity(row["quantity"]),
                word("funds", language): formats.won(row["cost"]),
                word("unrealised", language): formats.signed_won(row["unrealised"]),
            }
            for row in views.positions(session)
        ],
        language,
    )


def orders(session: Session, language: Language) -> None:
    """Orders, newest first."""
    st.subheader(word("orders", language))
    _table(
        [
            {
                word("time", language): formats.clock(row["event_ms"]),
                word("market", language): row["market"],
                word("side", language): ("▲ " if row["side"] == "buy" else "▼ ")
                + word(row["side"] or "none", language),
                word("state", language): row["state"],
                word("purpose", language): row["purpose"],
                word("funds", language): formats.won(row["executed_funds"]),
                word("quantity", language): formats.quantity(row["executed_quantity"]),
                word("fee", language): formats.quantity(row["paid_fee"]),
            }
            for row in views.orders(session, limit=30)
        ],
        language,
    )


def reasons(session: Session, language: Language) -> None:
    """Why nothing was traded, counted per day."""
    st.subheader(word("reasons", language))
    text = "korean" if language == "ko" else "english"
    _table(
        [
            {word("reason", language): row[text] or row["reason"], word("count", language): f"{row['count']:,}"}
            for row in views.reasons(session)
        ],
        language,
    )


def stages(session: Session, now_ms: int, language: Language) -> None:
    """Records per topic, and how long ago the last one came."""
    st.subheader(word("stages", language))
    _table(
        [
            {
                word("topic", language): row["topic"],
                word("records", language): f"{row['records']:,}",
                word("age", language): word("ago", language, s=max(0, (now_ms - row["last_append_ms"]) // 1000)),
            }
            for row in views.stages(session)
        ],
        language,
    )


def feed(session: Session, language: Language) -> None:
    """What happened to the sources of market data."""
    st.subheader(word("feed", language))
    _table(
        [
            {
                word("time", language): formats.clock(row["received_ns"] // 1_000_000),
                word("event", language): row["kind"],
                word("reason", language): row["text"],
            }
            for row in views.feed_events(session, 10)
        ],
        language,
    )


def _table(rows: list[dict[str, str]], language: Language) -> None:
    if rows:
        st.dataframe(rows, hide_index=True)
    else:
        st.caption(word("none", language))


def _kst(event_ms: int) -> str:
    """Plotly draws a time without a zone as it stands: give it Korea's."""
    return datetime.fromtimestamp(event_ms / 1000, UTC).astimezone(formats.KST).strftime("%Y-%m-%d %H:%M:%S")
