"""Settings: where they come from, what is refused and in which words."""

import math
import os
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from infra.configuration import FILE_VARIABLE, flat, load, save
from infra.errors import BadSettings
from infra.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("OBSERVATOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _toml(text: str) -> Path:
    file = Path("observator.toml")
    file.write_text(text)
    return file


def test_without_anything_the_defaults_hold_and_paths_are_absolute(tmp_path: Path) -> None:
    found = load()
    assert found.home == tmp_path / ".observator"
    assert found.model_copy(update={"home": Settings().home}) == Settings()


def test_the_command_line_comes_before_variables_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    _toml("[feed]\nmarket_count = 3\nbooks_per_second = 2\nseed = 1\n")
    monkeypatch.setenv("OBSERVATOR_FEED__BOOKS_PER_SECOND", "4")
    monkeypatch.setenv("OBSERVATOR_FEED__SEED", "2")
    feed = load(overrides={"feed": {"seed": 9}}).feed
    assert (feed.market_count, feed.books_per_second, feed.seed) == (3, 4.0, 9)


def test_another_file_is_named_by_option_or_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _toml("[feed]\nseed = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[feed]\nseed = 2\n")
    assert load(other).feed.seed == 2
    monkeypatch.setenv(FILE_VARIABLE, str(other))
    assert load().feed.seed == 2
    with pytest.raises(BadSettings, match=r"none\.toml does not exist"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["KRW-BTC,KRW-ETH", " KRW-BTC , KRW-ETH,", '["KRW-BTC", "KRW-ETH"]'])
def test_a_list_in_a_variable_has_commas_or_is_json(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OBSERVATOR_FEED__MARKETS", text)
    assert load().feed.markets == ["KRW-BTC", "KRW-ETH"]
    assert flat(load())["feed.markets"] == "KRW-BTC,KRW-ETH"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "OBSERVATOR_FEED__KNID",
            "upbit",
            r"feed\.knid` \(variable OBSERVATOR_FEED__KNID\) \(did you mean `feed\.kind`",
        ),
        ("OBSERVATOR_FEEED__KIND", "upbit", r"variable OBSERVATOR_FEEED__KIND names no setting \(did you mean `feed"),
        ("OBSERVATOR_ZZZ", "1", "variable OBSERVATOR_ZZZ names no setting"),
        ("observator_zzz", "1", "variable observator_zzz names no setting"),
        ("OBSERVATOR_FEED", "1", "`feed` is 1"),
        ("OBSERVATOR_FEED__KIND", "bitcoin", "`feed.kind` is 'bitcoin'.*'synthetic', 'recording' or 'upbit'"),
        ("OBSERVATOR_FEED__KIND", "recording", r"needs `feed\.recording`"),
        ("OBSERVATOR_FEED__SPEED", "inf", "`feed.speed` is 'inf'"),
        ("OBSERVATOR_FEED__MARKETS", "[1", "cannot be read"),
        ("OBSERVATOR_FEED__MARKETS", "btc", "feed.markets.0"),
        ("OBSERVATOR_GRID__GRID_MS", "99", "`grid.grid_ms` is '99'.*100"),
        ("OBSERVATOR_PAPER__CASH", "1e9", "`paper.cash` is '1e9'"),
        ("OBSERVATOR_PAPER__CASH", "-1", "`paper.cash` is '-1'"),
        ("OBSERVATOR_DASHBOARD__PORT", "65536", "`dashboard.port` is '65536'"),
        ("OBSERVATOR_KAFKA__BOOTSTRAP", "no port", "`kafka.bootstrap`"),
        ("OBSERVATOR_SANDBOX__HOST", "0.0.0.0", "`sandbox.host` is '0.0.0.0': .*only this machine"),
        ("OBSERVATOR_DASHBOARD__HOST", "0.0.0.0", "`dashboard.host` is '0.0.0.0': .*only this machine"),
        ("OBSERVATOR_DASHBOARD__HOST", "example.org", "`dashboard.host`"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=sentence):
        load()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[feeed]\nkind = 'upbit'\n", r"no setting `feeed` \(did you mean `feed`"),
        ("[feed]\nkindd = 'upbit'\n", r"no setting `feed\.kindd` \(did you mean `feed\.kind`"),
        ("[feed\n", r"observator\.toml\) cannot be read"),
        ("grid = 3\n", "`grid` is 3"),
        ("[paper]\ncash = 12\n", "`paper.cash` is 12"),
    ],
)
def test_a_wrong_file_is_named(text: str, sentence: str) -> None:
    _toml(text)
    with pytest.raises(BadSettings, match=sentence):
        load()


def test_what_is_not_a_setting_but_ours_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBSERVATOR_DATA", "/data")
    monkeypatch.setenv("OBSERVATORY", "/elsewhere")
    load()


def test_the_page_may_be_opened_to_others_by_saying_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBSERVATOR_DASHBOARD__HOST", "0.0.0.0")
    monkeypatch.setenv("OBSERVATOR_DASHBOARD__IS_OPEN", "true")
    assert load().dashboard.host == "0.0.0.0"


def test_saved_settings_are_read_back_the_same(tmp_path: Path) -> None:
    chosen = load(overrides={"feed": {"markets": ["KRW-BTC"], "speed": 2.5, "recording": "r.gz", "kind": "recording"}})
    assert chosen.feed.recording == tmp_path / "r.gz"
    save(chosen, tmp_path / "run" / "settings.json")
    assert load(tmp_path / "run" / "settings.json") == chosen


def test_what_is_named_like_a_secret_is_masked() -> None:
    class Wallet(BaseModel):
        secret_key: str = "abc"
        token: str = ""
        address: str = "proto://me:word@host"

    class More(Settings):
        wallet: Wallet = Wallet()

    shown = flat(More())
    assert shown["wallet.secret_key"] == "***"
    assert shown["wallet.token"] == ""
    assert shown["feed.seed"] == "7"
    assert shown["wallet.address"] == "proto://me:***@host"


NAMES = sorted(flat(Settings()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(NAMES),
    value=st.one_of(
        st.text(string.printable, max_size=20), st.floats().map(repr), st.integers().map(str), st.just("[" * 200)
    ).filter(lambda text: "\0" not in text),
)
def test_any_value_is_either_taken_or_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "OBSERVATOR_" + name.replace(".", "__").upper()
    with monkeypatch.context() as patch:
        patch.setenv(variable, value)
        refusal = ""
        try:
            found = load()
        except BadSettings as error:
            refusal = str(error)
    if refusal:
        assert name.partition(".")[0] in refusal
        return
    number: object = found.model_dump()
    for part in name.split("."):
        assert isinstance(number, dict)
        number = number[part]
    assert not isinstance(number, float) or math.isfinite(number)


@given(name=st.text(string.ascii_lowercase + "_", min_size=1, max_size=30))
def test_an_unknown_name_in_the_file_is_always_refused_with_it(name: str) -> None:
    if name in Settings.model_fields:
        return
    with pytest.raises(BadSettings) as refused:
        load(overrides={name: 1})
    assert f"`{name}`" in str(refused.value)
