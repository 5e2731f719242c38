"""What the reader chose: language, market and horizon, kept in the address so that it can be shared.

Called by the page at each full run. The address is the truth: the sidebar shows it and writes it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.words import LANGUAGES, Language, word

HORIZONS_S = ("5", "10", "30", "60")
_DEFAULT_HORIZON = "10"
_HORIZON_KEY = "horizon"


def language() -> Language:
    """The language of the address, else the browser's; Korean where neither says."""
    preset: Language = "ko" if (st.context.locale or "ko").startswith("ko") else "en"
    shown = st.session_state.get("lang", _asked("lang", list(LANGUAGES), preset))
    chosen = _choose(
        "lang",
        list(LANGUAGES),
        preset,
        lambda index: st.sidebar.radio(
            word("language", shown),
            list(LANGUAGES),
            index=index,
            format_func=LANGUAGES.__getitem__,
            key="lang",
            horizontal=True,
        ),
    )
    return "en" if chosen == "en" else "ko"


def market(names: Mapping[str, str], in_language: Language) -> str:
    """One of the markets; says so where the address names one that is not there."""
    codes = list(names)
    asked = st.query_params.get("market")
    chosen = _choose(
        "market",
        codes,
        codes[0],
        lambda index: st.sidebar.selectbox(
            word("market", in_language),
            codes,
            index=index,
            format_func=lambda code: names.get(code, code),
            key="market",
        ),
    )
    if asked is not None and asked not in names and chosen == codes[0]:
        plain = "".join(sign for sign in asked if sign.isalnum() or sign == "-")[:40]  # an address may hold Markdown
        st.warning(word("unknown_market", in_language, asked=plain, shown=chosen))
    return chosen


def horizon_ms(in_language: Language) -> int:
    """How far ahead the forecasts of the chart look."""
    chosen = _choose(
        _HORIZON_KEY,
        HORIZONS_S,
        _DEFAULT_HORIZON,
        lambda index: st.sidebar.select_slider(
            word("horizon", in_language),
            HORIZONS_S,
            value=HORIZONS_S[index],
            format_func=lambda seconds: word("seconds", in_language, n=seconds),
            key=_HORIZON_KEY,
        ),
    )
    return 1000 * int(chosen)


def _asked(name: str, codes: Sequence[str], default: str) -> str:
    asked = st.query_params.get(name, default)
    return asked if asked in codes else default


def _choose(name: str, codes: Sequence[str], default: str, draw: Callable[[int], Any]) -> str:
    """Let a widget begin with what the address says and write what it answers; a wrong address stays until then."""
    asked = st.query_params.get(name)
    preset = _asked(name, codes, default)
    chosen = draw(codes.index(preset))
    answer = chosen if isinstance(chosen, str) and chosen in codes else preset
    if answer != asked and (asked is None or answer != preset):
        st.query_params[name] = answer
    return answer
