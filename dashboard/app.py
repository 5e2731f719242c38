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
from infra.tables import view_questions as questions
from infra.tables import views

FAST_S, SLOW_S = 0.8, 2.0


@st.cache_resource(show_spinner=False)
def _opened() -> tuple[Settings, Engine]:
    settings = configuration.load()
    return settings, open_for_reading(views.path_of(settings.home))


def main() -> None:
    """Lay the page out; what moves stands in fragments."""
    st.set_page_config(page_title="OBservator", page_icon="📖", layout="wide", initial_sidebar_state="auto")
    markup.style()
    st.sidebar.html('<div class="ob-brand">OBservator</div>')
    language = choices.language()
    try:
        settings, engine = _opened()
    except BadSettings as error:
        st.error(word("settings", language, error=error))
        return
    if settings.feed.kind in {"synthetic", "recording"}:
        markup.banner(word(settings.feed.kind, language), language)
    names = _names(engine, language)
    if not names:
        _wait(settings, engine, language)
        return
    chosen = choices.market(names, language)
    horizon_ms = choices.horizon_ms(language)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        _live(settings, engine, chosen, language)
    with right:
        _charts(engine, chosen, horizon_ms, language)
    _below(engine, chosen, frozenset(names), language)
    markup.note(word("disclaimer", language), language, "disclaimer")


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
            return {row["market"]: market.name_of(row, language) for row in questions.latest_markets(session)}
    except SQLAlchemyError:
        return {}


@st.fragment(run_every=SLOW_S)
def _wait(settings: Settings, engine: Engine, language: Language) -> None:
    """Nothing to show yet: say so until there is."""
    _badges(settings, engine, language)
    st.info(word("waiting", language))
    if _names(engine, language):
        st.rerun()


@st.fragment(run_every=FAST_S)
def _live(settings: Settings, engine: Engine, chosen: str, language: Language) -> None:
    """Badges, price, book, trades and forecasts; the one part that says when the database cannot be read."""
    _badges(settings, engine, language)
    with _reading(engine, language, is_quiet=False) as session:
        for row in questions.latest_markets(session, chosen)[:1]:
            market.headline(session, row, language)
            book, trades = st.columns([1.2, 1])
            with book:
                market.order_book(session, row, language)
            with trades:
                market.trades(session, row, language)
            signal.newest(session, row, language)


@st.fragment(run_every=SLOW_S)
def _charts(engine: Engine, chosen: str, horizon_ms: int, language: Language) -> None:
    """The mid price, and forecasts against outcomes."""
    with _reading(engine, language) as session:
        for row in questions.latest_markets(session, chosen)[:1]:
            market.price_chart(session, row, language)
            signal.forecast(session, row, horizon_ms, language)


@st.fragment(run_every=SLOW_S)
def _below(engine: Engine, chosen: str, known: frozenset[str], language: Language) -> None:
    """Money, orders, reasons, features and the pipeline; takes up markets that came after the page was opened."""
    with _reading(engine, language) as session:
        account.money(session, language)
        left, right = st.columns([1.7, 1], gap="medium")
        with left:
            account.orders(session, language)
            account.positions(session, language)
            for row in questions.latest_markets(session, chosen)[:1]:
                signal.features(row, language)
        with right:
            account.reasons(session, language)
            account.balances(session, language)
            pipeline.stages(session, _now_ms(), language)
            pipeline.feed(session, language)
    if _names(engine, language).keys() - known:
        st.rerun()


def _badges(settings: Settings, engine: Engine, language: Language) -> None:
    """What stands on every page: paper or live, made-up or played market, age of the newest data."""
    found = [("venue", "", word("paper", language))]
    if settings.feed.kind in {"synthetic", "recording"}:
        key = "made_up" if settings.feed.kind == "synthetic" else "played"
        found.append(("feed-kind", "made-up", word(key, language)))
    with _reading(engine, language) as session:
        if any(row["venue"] == "live" for row in questions.money(session)):
            found[0] = ("venue", "live", word("live", language))
        found += pipeline.freshness(session, _now_ms(), round(1000 * settings.feed.stale_seconds), language)
        found += pipeline.check(session, language)
    with st.container(key="badges"):
        markup.badges(language, found)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


main()
