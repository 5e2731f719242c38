"""Forecasts against outcomes, the newest forecasts and the features behind them. Called by fragments; reads only."""

import plotly.graph_objects as go
import streamlit as st
from sqlmodel import Session

from dashboard import formats
from dashboard.charts import QUIET, layout_of
from dashboard.feature_words import name_of, value_of
from dashboard.markup import Cell, heading, note, table
from dashboard.words import Language, word
from infra.tables import view_questions as questions
from infra.tables.view_questions import Row
from streams.market.features import FEATURES, SCHEMA

FORECASTS = 300
_COLUMNS = 3


def forecast(session: Session, row: Row, horizon_ms: int, language: Language) -> None:
    """Forecast of each moment against what happened, and the skill against "no change"."""
    heading("signal", language, word("seconds", language, n=horizon_ms // 1000))
    signals = questions.recent_signals(session, row["market"], FORECASTS, horizon_ms, row["exchange"])[::-1]
    times = [formats.axis_time(signal["bin_ms"]) for signal in signals]
    figure = go.Figure()
    for name, field, colour in (("outcome", "outcome_bp", "#999999"), ("forecast", "expected_bp", "#0a9f70")):
        percent = [None if signal[field] is None else signal[field] / 100 for signal in signals]
        figure.add_scatter(x=times, y=percent, name=word(name, language), line={"color": colour, "width": 1.5})
    figure.update_layout(**layout_of(f"{row['market']}-{horizon_ms}"), yaxis_ticksuffix="%")
    st.plotly_chart(figure, key="forecast-chart", config=QUIET)
    note(_skill(signals, language), language, "skill")


def _skill(signals: list[Row], language: Language) -> str:
    known = [(signal["outcome_bp"], signal["expected_bp"]) for signal in signals if signal["outcome_bp"] is not None]
    base = sum(outcome**2 for outcome, _ in known)
    if not base:
        return word("no_outcome", language)
    skill = 1 - sum((outcome - expected) ** 2 for outcome, expected in known) / base
    return word("skill", language, skill=f"{skill:+.3f}", n=f"{len(known):,}")


def newest(session: Session, row: Row, language: Language) -> None:
    """The newest bin's forecast over each horizon, and whether it may trade."""
    found = questions.recent_signals(session, row["market"], 8, None, row["exchange"])
    found = [signal for signal in found if signal["bin_ms"] == found[0]["bin_ms"]]
    heading("forecasts_now", language, word("model", language, id=found[0]["model_id"]) if found else "")
    if not found:
        note(word("no_forecast", language), language)
        return
    rows = [
        [
            Cell(word("seconds", language, n=signal["horizon_ms"] // 1000)),
            Cell(formats.percent_of_bp(signal["expected_bp"]), "number"),
            Cell(formats.percent_of_bp(signal["sigma_bp"], is_signed=False), "number"),
            Cell(word("licensed" if signal["is_licensed"] else "unlicensed", language)),
        ]
        for signal in found
    ]
    heads = [word(key, language) for key in ("horizon", "expected", "deviation", "licence")]
    table("forecasts", language, heads, rows, data=str(found[0]["bin_ms"]))


def features(row: Row, language: Language) -> None:
    """The newest feature vector, basis points shown as per cent."""
    more = word("feature_bins", language, time=formats.clock(row["bin_ms"]), n=row["n_bins"])
    heading("features", language, more)
    values = row["features"] or []
    if row["feature_schema"] != SCHEMA or not values:
        note(word("none", language), language)
        return
    cells = [
        [Cell(name_of(spec.name, language)), Cell(value_of(spec.unit, value, language), "number")]
        for spec, value in zip(FEATURES, values, strict=True)
    ]
    height = -(-len(cells) // _COLUMNS)
    cells += [[Cell(""), Cell("", "number")]] * (height * _COLUMNS - len(cells))
    lines = [[cell for column in range(_COLUMNS) for cell in cells[column * height + line]] for line in range(height)]
    heads = [word(key, language) for key in ("name", "value")] * _COLUMNS
    table("features", language, heads, lines, data=str(row["bin_ms"]))
