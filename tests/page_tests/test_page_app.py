import re
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.words import word
from infra.tables import views as t
from streams import messages as m

if TYPE_CHECKING:
    from tests.page_tests.conftest import World

SCRIPT = Path(__file__).parents[2] / "dashboard" / "app.py"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


def opened(file: Path, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    monkeypatch.setenv("OBSERVATOR_SETTINGS", str(file))
    test = AppTest.from_file(SCRIPT, default_timeout=20)
    for name, value in query.items():
        test.query_params[name] = value
    test.run()
    assert not test.exception
    return test


def texts(test: AppTest) -> str:
    """All that stands on the page as HTML."""
    return "\n".join(element.proto.body for element in [*test.main, *test.sidebar] if element.type == "html")


def part(test: AppTest, name: str) -> str:
    """One part by its test id."""
    (found,) = [body for body in texts(test).split("\n") if f'data-testid="{name}"' in body]
    return found


def figure(test: AppTest, name: str) -> str:
    found = re.search(rf'data-testid="{name}">.*?ob-value[^>]*>([^<]*)<', texts(test))
    assert found is not None
    return found[1]


def address(test: AppTest) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value[-1] for name, value in test.query_params.items()}


@pytest.mark.parametrize("language", ["ko", "en"])
def test_the_whole_page_in_both_languages(world: "World", monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    world.fill()
    test = opened(world.settings_file, monkeypatch, lang=language, market="KRW-BTC", horizon="5")
    assert not test.error
    assert not test.warning
    assert (test.radio[0].value, test.selectbox[0].value, test.select_slider[0].value) == (language, "KRW-BTC", "5")
    labels = [test.radio[0].label, test.selectbox[0].label, test.select_slider[0].label]
    assert labels == [word(key, language) for key in ("language", "market", "horizon")]
    assert word("paper", language) in part(test, "venue")
    assert word("synthetic", language) in part(test, "banner")
    for key in ("book", "trades", "chart", "signal", "forecasts_now", "features", "money", "positions", "orders",
                "reasons", "stages", "feed", "balances"):  # fmt: skip
        assert f">{word(key, language)}" in texts(test), key
    assert len(test.get("plotly_chart")) == 2
    if language == "en":
        assert not re.search("[가-힣]", texts(test))


def test_the_numbers(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill()
    test = opened(world.settings_file, monkeypatch, lang="ko", market="KRW-BTC", horizon="5")
    assert figure(test, "market-name") == "KRW-BTC 비트코인"
    assert figure(test, "last-price") == "▼ 152,235,000"
    assert figure(test, "mid") == "152,249,500"
    assert figure(test, "spread") == "1,000 (0.001%)"
    assert figure(test, "free") == "992,764원"
    assert (figure(test, "invested"), figure(test, "realised"), figure(test, "fees")) == (
        "6,002원",
        "▼ 1,234원",
        "57원",
    )
    quantity, mid, cost = Decimal("0.00003951"), Decimal(152_249_500 + 5000 * (30 % 7)), Decimal("6001.7")
    assert figure(test, "unrealised") == f"▲ {quantity * mid - cost:,.0f}원"
    book = part(test, "book")
    assert book.index("152,259,000") < book.index("152,250,000") < book.index("152,249,000") < book.index("152,240,000")
    assert "152,260,000" not in book  # ten levels a side
    assert 'class="number price ask fall">152,250,000<' in book
    assert 'class="number price bid rise">152,249,000<' in book
    assert "매도 108.75 · 매수 112.5" in texts(test)
    assert 'class="number rise">▲ 152,258,000<' in part(test, "trades")
    orders = part(test, "orders")
    assert ">▲ 매수<" in orders
    assert ">체결<" in orders  # the exchange ends a market buy as cancelled, and it was filled
    assert ">151,827,385<" in orders
    assert ">5,999<" in orders
    assert "&lt;b&gt;no&lt;/b&gt;" in orders
    assert "<b>" not in orders
    assert "0.1234%" in part(test, "features")
    assert "bp" not in re.sub("<[^>]*>", "", texts(test))
    reasons = part(test, "reasons")
    assert "예상 수익률이 왕복 비용과 수익 임계값의 합보다 낮습니다." in reasons
    assert ">1,383<" in reasons
    assert ">own-word<" in reasons
    assert "29,238건, 최고 +0.318% (KRW-BTC), 그때 필요 +0.174%, 진입 11건, 청산 8건" in part(test, "sign-of-life")
    assert ">ETH<" not in part(test, "balances")
    assert "불가 (예측력 미입증)" in part(test, "forecasts")
    assert re.search(r"예측력 [+-]\d\.\d{3} · 최근 26건", part(test, "skill"))


def test_prices_follow_the_tick(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill()
    test = opened(world.settings_file, monkeypatch, lang="en", market="KRW-PEPE")
    assert figure(test, "mid") == "0.012345"
    assert ">0.01230<" in part(test, "book")
    assert "exchange warns of this market" in texts(test)
    assert word("no_forecast", "en") in texts(test)
    assert word("no_outcome", "en") in part(test, "skill")
    assert figure(test, "last-price") == "-"


def test_what_is_chosen_goes_into_the_address(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill()
    test = opened(world.settings_file, monkeypatch, lang="ko")
    assert address(test) == {"lang": "ko", "market": "KRW-BTC", "horizon": "10"}
    test.selectbox[0].set_value("KRW-PEPE").run()
    test.radio[0].set_value("en").run()
    test.select_slider[0].set_value("60").run()
    assert address(test) == {"lang": "en", "market": "KRW-PEPE", "horizon": "60"}
    assert figure(test, "market-name") == "KRW-PEPE Pepe"


def test_a_wrong_address_is_said_and_something_is_shown(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill()
    query = {"lang": "xx", "market": "KRW-![x](http://b)", "horizon": "7"}
    test = opened(world.settings_file, monkeypatch, **query)
    assert [one.value for one in test.warning] == ["KRW-xhttpb 마켓은 여기에 없습니다. 대신 KRW-BTC 마켓을 표시합니다."]
    assert test.select_slider[0].value == "10"
    test.selectbox[0].set_value("KRW-PEPE").run()
    assert not test.warning
    assert address(test)["market"] == "KRW-PEPE"


@pytest.mark.parametrize("state", ["missing", "no tables", "empty", "broken"])
def test_without_data_the_page_waits(world: "World", monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    file = t.path_of(world.home)
    file.parent.mkdir(parents=True)
    if state == "no tables":
        sqlite3.connect(file).close()
        file.touch()
    elif state == "empty":
        t.open_views(file).dispose()
    elif state == "broken":
        file.write_bytes(b"this is no database" * 100)
    test = opened(world.settings_file, monkeypatch, lang="en")
    assert [one.value for one in test.info] == [word("waiting", "en")]
    assert word("paper", "en") in part(test, "venue")
    if state != "missing":
        file.unlink()
    world.fill()
    test.run()
    assert not test.info
    assert figure(test, "market-name") == "KRW-BTC Bitcoin"


def test_a_database_that_goes_away_is_said_once(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts run by themselves between full runs: the headline says what is wrong, the others stay empty."""
    world.fill()
    test = opened(world.settings_file, monkeypatch, lang="en", market="KRW-BTC")
    assert not test.error
    with sqlite3.connect(t.path_of(world.home)) as connection:
        connection.execute("DROP TABLE trade")
    connection.close()
    test.run()
    assert not test.exception
    assert [one.value for one in test.error] == [word("database", "en")]
    assert word("money", "en") in texts(test)


def test_before_the_account_and_the_feed_speak(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    world.features(world.now_ms // 1000 * 1000, 100.0, schema="v0-other")
    world.sync()
    test = opened(world.settings_file, monkeypatch, lang="en")
    assert word("no_account", "en") in texts(test)
    assert figure(test, "mid") == "100"
    assert figure(test, "spread") == "- (-)"
    assert "freshness" not in texts(test)
    assert texts(test).count(">None<") >= 6


def test_a_failed_nightly_check_stands_on_the_page_until_a_better_one(
    world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(kind: Literal["checked", "check-failed"], hours: int) -> None:
        at_ms = world.now_ms + hours * 3_600_000
        event = m.FeedEvent(
            exchange="", source="nightly", session=0, kind=kind, event_ms=at_ms, received_ns=at_ms * 1_000_000, text="x"
        )
        world.put("feed-events", event, "")
        world.sync()

    world.fill()
    told("check-failed", 0)
    told("checked", 1)
    test = opened(world.settings_file, monkeypatch, lang="ko")
    assert word("check_failed", "ko") in part(test, "venue")
    told("checked", 24)
    test.run()
    assert word("check_failed", "ko") not in part(test, "venue")


def test_a_halt_a_broken_ledger_and_real_money_stand_out(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill()
    world.account(halt="sell-all", is_ledger_broken=True, is_trading=False, paused="coins-moved")
    world.sync()
    test = opened(world.settings_file, monkeypatch, lang="ko")
    for key in ("halted", "ledger_broken", "paused", "trading_off"):
        assert word(key, "ko") in part(test, "account-venue")
    with sqlite3.connect(t.path_of(world.home)) as connection:
        connection.execute("UPDATE account SET venue = 'live'")
        connection.execute("UPDATE stage SET last_append_ms = last_append_ms - 20000")
    connection.close()
    test.run()
    assert "실거래" in part(test, "venue")
    assert "모의" not in part(test, "venue")
    assert re.search("2[0-9]초 동안 새 시세 없음", part(test, "venue"))


def test_settings_that_cannot_be_read_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"hom": "x"}')
    test = opened(file, monkeypatch, lang="en")
    assert len(test.error) == 1
    assert "hom" in test.error[0].value
