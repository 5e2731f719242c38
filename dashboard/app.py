"""The first page: one market live, forecasts against outcomes, orders, money and the reasons for not buying.

Run by Streamlit (`observator process page`). Reads the views database only; places nothing. Parts refresh by
themselves at least once a second (fragments), the page is never reloaded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from dashboard import choices, markup
from dashboard.panels import account, market, pipeline, signal
from dashboard.store import open_for_reading
from dashboard.words import Language, word
from infra import configuration
from infra.errors import BadSettings
from infra.settings import Settings
from infra.tables import views

FAST_S, SLOW_S = 0.7, 2.0


@st.cache_resource(show_spinner=False)
def _opened() -> tuple[Settings, Engine]:
    settings = configuration.load()
    return settings, open_for_reading(views.path_of(settings.home))


def main() -> None:
    """Lay the page out; what moves stands in fragments."""
    st.set_page_config(page_title="OBservator", page_icon="📖", layout="wide", initial_sidebar_state="expanded")
    markup.style()
    st.sidebar.html('<div class="ob-brand">OBservator</div>')
    language = choices.language()
    try:
        settings, engine = _opened()
    except BadSettings as error:
        st.error(word("settings", language, error=error))
        return
    _standing(settings, engine, language)
    if settings.feed.kind in {"synthetic", "recording"}:
        markup.banner(word(settings.feed.kind, language), language)
    names = _names(engine, language)
    if not names:
        _wait(engine, language)
        return
    chosen = choices.market(names, language)
    _page(engine, chosen, choices.horizon_ms(language), language)
    _watch_markets(engine, frozenset(names), language)
    markup.note(word("disclaimer", language), language, "disclaimer")


def _page(engine: Engine, chosen: str, horizon_ms: int, language: Language) -> None:
    _headline(engine, chosen, language)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        _market(engine, chosen, language)
        _forecasts(engine, chosen, language)
    with right:
        _signal(engine, chosen, horizon_ms, language)
    _account(engine, language)
    _pipeline(engine, chosen, language)


@contextmanager
def _reading(engine: Engine, language: Language, *, is_quiet: bool = True) -> Iterator[Session]:
    """A session on the database; where it cannot be read, the part stays empty (and one says why) until it can."""
    try:
        with Session(engine) as session:
            yield session
    except SQLAlchemyError:
        if not is_quiet:
            st.error(word("database", language))


def _names(engine: Engine, language: Language) -> dict[str, str]:
    try:
        with Session(engine) as session:
            return {row["market"]: market.name_of(row, language) for row in views.latest_markets(session)}
    except SQLAlchemyError:
        return {}


@st.fragment(run_every=SLOW_S)
def _wait(engine: Engine, language: Language) -> None:
    """Nothing to show yet: say so until there is."""
    st.info(word("waiting", language))
    if _names(engine, language):
        st.rerun()


@st.fragment(run_every=SLOW_S)
def _watch_markets(engine: Engine, known: frozenset[str], language: Language) -> None:
    """Take up markets that came after the page was opened."""
    if _names(engine, language).keys() - known:
        st.rerun()


@st.fragment(run_every=FAST_S)
def _standing(settings: Settings, engine: Engine, language: Language) -> None:
    """The badges that stand on every page: paper or live, made-up or played market, age of the newest data."""
    found = [("venue", "", word("paper", language))]
    if settings.feed.kind in {"synthetic", "recording"}:
        key = "made_up" if settings.feed.kind == "synthetic" else "played"
        found.append(("feed-kind", "made-up", word(key, language)))
    with _reading(engine, language) as session:
        if any(row["venue"] == "live" for row in views.money(session)):
            found[0] = ("venue", "live", word("live", language))
        found += pipeline.freshness(session, _now_ms(), round(1000 * settings.feed.stale_seconds), language)
    with st.container(key="badges"):
        markup.badges(language, found)


@st.fragment(run_every=FAST_S)
def _headline(engine: Engine, chosen: str, language: Language) -> None:
    """Price and spread; the one part that says when the database cannot be read."""
    with _reading(engine, language, is_quiet=False) as session:
        for row in views.latest_markets(session, chosen)[:1]:
            market.headline(session, row, language)


@st.fragment(run_every=FAST_S)
def _market(engine: Engine, chosen: str, language: Language) -> None:
    """Book and trades."""
    with _reading(engine, language) as session:
        for row in views.latest_markets(session, chosen)[:1]:
            book, trades = st.columns([1.2, 1])
            with book:
                market.order_book(session, row, language)
            with trades:
                market.trades(session, row, language)


@st.fragment(run_every=SLOW_S)
def _signal(engine: Engine, chosen: str, horizon_ms: int, language: Language) -> None:
    """The charts."""
    with _reading(engine, language) as session:
        for row in views.latest_markets(session, chosen)[:1]:
            market.price_chart(session, row, language)
            signal.forecast(session, row, horizon_ms, language)


@st.fragment(run_every=FAST_S)
def _forecasts(engine: Engine, chosen: str, language: Language) -> None:
    """The newest forecasts."""
    with _reading(engine, language) as session:
        for row in views.latest_markets(session, chosen)[:1]:
            signal.newest(session, row, language)


@st.fragment(run_every=SLOW_S)
def _account(engine: Engine, language: Language) -> None:
    """Money, orders and reasons."""
    with _reading(engine, language) as session:
        account.money(session, language)
        left, right = st.columns([1.7, 1], gap="medium")
        with left:
            account.orders(session, language)
            account.positions(session, language)
        with right:
            account.reasons(session, language)
            account.balances(session, language)


@st.fragment(run_every=SLOW_S)
def _pipeline(engine: Engine, chosen: str, language: Language) -> None:
    """Features, stages and the feed's events."""
    with _reading(engine, language) as session:
        left, right = st.columns([1.7, 1], gap="medium")
        with left:
            for row in views.latest_markets(session, chosen)[:1]:
                signal.features(row, language)
        with right:
            pipeline.stages(session, _now_ms(), language)
            pipeline.feed(session, language)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


main()
