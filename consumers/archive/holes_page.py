"""The hole ledger as a picture: one page with a timeline per market, Korean or English; it needs nothing from outside.

Called by `observator archive holes --picture`. Pure: a ledger in, HTML out.
"""

import html
from collections import defaultdict
from datetime import datetime, timedelta

import plotly.graph_objects as go

from consumers.archive.frames import KST
from consumers.archive.holes import Ledger, MarketDay, Stretch

WORDS = {
    "en": {
        "title": "What the market data lack",
        "none": "Nothing is missing.",
        "time": "Korean time",
        "hole": "hole",
        "stale": "no book",
        "day": "day",
        "market": "market",
        "books": "books",
        "trades": "trades",
        "late": "late",
        "late_percent": "late %",
        "before_complete": "before complete",
        "holes": "holes",
        "hole_seconds": "hole, s",
        "stale_seconds": "no book, s",
    },
    "ko": {
        "title": "시장 데이터에서 빠진 구간",
        "none": "빠진 구간이 없습니다.",
        "time": "한국 시간",
        "hole": "누락 구간",
        "stale": "호가 없음",
        "day": "날짜",
        "market": "마켓",
        "books": "호가",
        "trades": "체결",
        "late": "지연",
        "late_percent": "지연 %",
        "before_complete": "완전해지기 전",
        "holes": "누락 수",
        "hole_seconds": "누락(초)",
        "stale_seconds": "호가 없음(초)",
    },
}
_COLUMNS = (
    "day", "market", "books", "trades", "late", "late_percent", "before_complete", "holes", "hole_seconds",
    "stale_seconds",
)  # fmt: skip
_COLOURS = {"hole": "#c0392b", "stale": "#e0a030"}
_MINIMUM_MS = 1_000
"""A bar is drawn at least this wide, so that the shortest hole is seen."""


def page(ledger: Ledger, language: str) -> str:
    """The page: the timeline, then the figures."""
    words = WORDS[language]
    body = _timeline(ledger, words) if ledger.stretches else f"<p>{words['none']}</p>"
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{words["title"]}</title>'
        "<style>body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}</style></head>"
        f"<body><h1>{words['title']}</h1>{body}{_table(ledger.days, words)}</body></html>"
    )


def _timeline(ledger: Ledger, words: dict[str, str]) -> str:
    markets = sorted({f"{row.exchange}:{row.market}" for row in ledger.days}, reverse=True)
    figure = go.Figure()
    by_kind: dict[str, list[Stretch]] = defaultdict(list)
    for one in ledger.stretches:
        by_kind[one.kind].append(one)
    for kind, stretches in by_kind.items():
        figure.add_bar(
            orientation="h",
            name=words[kind],
            marker_color=_COLOURS[kind],
            y=[f"{one.exchange}:{one.market}" for one in stretches],
            base=[_kst(one.from_ms) for one in stretches],
            x=[max(one.to_ms - one.from_ms, _MINIMUM_MS) for one in stretches],
            hovertext=[_told(one) for one in stretches],
            hoverinfo="text",
        )
    figure.update_layout(
        barmode="overlay",
        height=160 + 26 * len(markets),
        margin={"l": 150, "r": 20, "t": 20, "b": 50},
        xaxis={"type": "date", "title": words["time"]},
        yaxis={"categoryorder": "array", "categoryarray": markets},
    )
    return str(figure.to_html(full_html=False, include_plotlyjs=True))


def _told(one: Stretch) -> str:
    place = f"{one.topic}-{one.partition} @{one.offset}" if one.offset >= 0 else one.topic
    seconds = (one.to_ms - one.from_ms) / 1000
    return html.escape(f"{_kst(one.from_ms)} +{seconds:g} s: {one.reason} ({place})")


def _kst(at_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=KST) + timedelta(hours=9, milliseconds=at_ms)).strftime("%Y-%m-%d %H:%M:%S.%f")


def clock(at_ms: int) -> str:
    """KST clock time."""
    return _kst(at_ms)[11:23]


def _table(rows: list[MarketDay], words: dict[str, str]) -> str:
    head = "".join(f"<th>{words[name]}</th>" for name in _COLUMNS)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(getattr(row, name)))}</td>" for name in _COLUMNS) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{lines}</table>"
