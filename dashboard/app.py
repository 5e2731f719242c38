"""The first page: one market live, forecasts against outcomes, orders, money and the reasons for not trading.

Run by Streamlit (`observator process page`). Reads the views database only; places nothing. Parts refresh by
themselves once a second (fragments), the page is never reloaded.
"""

import time

import streamlit as st
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from dashboard import panels
from dashboard.words import LANGUAGES, Language, word
from infra import configuration
from infra.settings import Settings
from infra.tables import views

HORIZONS_MS = (5_000, 10_000, 30_000, 60_000)


@st.cache_resource
def _opened() -> tuple[Settings, Engine]:
    settings = configuration.load()
    return settings, views.open_views(views.path_of(settings.home))


def _language() -> Language:
    asked = st.query_params.get("lang")
    preset = asked if asked in LANGUAGES else "ko" if (st.context.locale or "ko").startswith("ko") else "en"
    codes = list(LANGUAGES)
    chosen = st.sidebar.radio(
        "언어 · Language", codes, index=codes.index(preset), format_func=lambda code: LANGUAGES[code], key="language"
    )
    return chosen or "ko"


def _banner(settings: Settings, language: Language) -> None:
    st.html(
        f'<div data-testid="venue" style="display:inline-block;padding:2px 12px;border:2px solid #0a7f5a;'
        f'border-radius:6px;color:#0a7f5a;font-weight:700">{word("paper", language)}</div>'
    )
    if settings.feed.kind in {"synthetic", "recording"}:
        st.warning(word(settings.feed.kind, language))


def main() -> None:
    """Lay the page out; what moves stands in fragments."""
    st.set_page_config(page_title="OBservator", page_icon="📖", layout="wide")
    settings, engine = _opened()
    language = _language()
    st.title(word("title", language))
    _banner(settings, language)
    with Session(engine) as session:
        names = {f"{row['market']}": row for row in views.latest_markets(session)}
    if not names:
        _wait(engine, language)
        return
    label = "korean_name" if language == "ko" else "english_name"
    market = st.sidebar.selectbox(
        word("market", language),
        list(names),
        format_func=lambda code: f"{code} {names[code][label] or ''}".strip(),
        key="market",
    )
    horizon_ms = st.sidebar.select_slider(
        f"{word('horizon', language)} ({word('seconds', language)})",
        HORIZONS_MS,
        value=10_000,
        format_func=lambda ms: str(ms // 1000),
        key="horizon",
    )
    _market(engine, market, language)
    _signal(engine, market, horizon_ms, language)
    _account(engine, language)
    st.caption(word("disclaimer", language))


@st.fragment(run_every=2.0)
def _wait(engine: Engine, language: Language) -> None:
    st.info(word("waiting", language))
    with Session(engine) as session:
        if views.latest_markets(session):
            st.rerun()


@st.fragment(run_every=1.0)
def _market(engine: Engine, market: str, language: Language) -> None:
    """Price, book and trades, once a second."""
    try:
        with Session(engine) as session:
            row = next(row for row in views.latest_markets(session) if row["market"] == market)
            panels.headline(row, language)
            left, right = st.columns(2)
            with left:
                panels.order_book(session, row, language)
            with right:
                panels.trades(session, row, language)
    except SQLAlchemyError:
        st.error(word("database", language))


@st.fragment(run_every=2.0)
def _signal(engine: Engine, market: str, horizon_ms: int, language: Language) -> None:
    """Chart, forecast and features."""
    with Session(engine) as session:
        row = next(row for row in views.latest_markets(session) if row["market"] == market)
        left, middle, right = st.columns([2, 2, 1.4])
        with left:
            panels.price_chart(session, row, language)
        with middle:
            panels.forecast(session, row, horizon_ms, language)
        with right:
            panels.features(row, language)


@st.fragment(run_every=2.0)
def _account(engine: Engine, language: Language) -> None:
    """Money, orders and reasons."""
    with Session(engine) as session:
        panels.money(session, language)
        left, right = st.columns([3, 2])
        with left:
            panels.orders(session, language)
            panels.positions(session, language)
        with right:
            panels.reasons(session, language)
        left, right = st.columns(2)
        with left:
            panels.stages(session, int(time.time() * 1000), language)
        with right:
            panels.feed(session, language)


main()
