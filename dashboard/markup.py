"""Tables and figures as HTML: what Streamlit's own widgets cannot colour or redraw without a flicker.

Called by the panels. Everything that is not a `Cell`'s class is escaped here, so no text from the log becomes markup.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from dashboard.words import Language, word

STYLE = Path(__file__).with_name("page.css")


class Cell(NamedTuple):
    """One cell: its text, its class (`rise`, `fall`, `number`, `bar` ...) and the share of its bar in per cent."""

    text: str
    kind: str = ""
    share: float | None = None


class Figure(NamedTuple):
    """One large figure with its label and a line below."""

    name: str
    label: str
    text: str
    kind: str = ""
    note: str = ""


def style() -> None:
    """Put the style sheet into the page."""
    st.html(STYLE)


def table(
    name: str, language: Language, heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, data: str = ""
) -> None:
    """Draw a table, or the word for "none"; `data` is what tests and assistive programs read as its version."""
    if not rows:
        note(word("none", language), language)
        return
    numeric = [all("number" in row[place].kind for row in rows) for place in range(len(heads))]
    head = "".join(
        f'<th scope="col"{" class=number" if is_number else ""}>{escape(text)}</th>'
        for text, is_number in zip(heads, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    st.html(
        f'<div class="ob-scroll"><table class="ob-table ob-{escape(name)}" data-testid="{escape(name)}"'
        f' data-version="{escape(data)}" lang="{language}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def figures(language: Language, found: Sequence[Figure]) -> None:
    """Draw figures in a row."""
    cards = "".join(
        f'<div class="ob-figure" data-testid="{escape(one.name)}"><div class="ob-label">{escape(one.label)}</div>'
        f'<div class="ob-value {escape(one.kind)}">{escape(one.text)}</div>'
        f"{_note(one.note)}</div>"
        for one in found
    )
    st.html(f'<div class="ob-figures" lang="{language}">{cards}</div>')


def badges(language: Language, found: Sequence[tuple[str, str, str]]) -> None:
    """Draw badges: name, class, text."""
    drawn = "".join(
        f'<span class="ob-badge {escape(kind)}" data-testid="{escape(name)}">{escape(text)}</span>'
        for name, kind, text in found
    )
    st.html(f'<div class="ob-badges" lang="{language}">{drawn}</div>')


def banner(text: str, language: Language) -> None:
    """Draw a line that stands out: what the reader must know about everything below."""
    st.html(f'<p class="ob-banner" role="note" data-testid="banner" lang="{language}">{escape(text)}</p>')


def heading(key: str, language: Language, more: str = "") -> None:
    """Draw the heading of a panel."""
    added = f' <span class="ob-more">{escape(more)}</span>' if more else ""
    st.html(f'<h3 class="ob-heading" lang="{language}">{escape(word(key, language))}{added}</h3>')


def note(text: str, language: Language, name: str = "note") -> None:
    """Draw a small line of text."""
    st.html(f'<p class="ob-note" data-testid="{escape(name)}" lang="{language}">{escape(text)}</p>')


def _note(text: str) -> str:
    return f'<div class="ob-note">{escape(text)}</div>' if text else ""


def _cell(cell: Cell) -> str:
    share = "" if cell.share is None else f' style="--share:{cell.share:.1f}%"'
    kind = f' class="{escape(cell.kind)}"' if cell.kind else ""
    return f"<td{kind}{share}>{escape(cell.text)}</td>"
