"""What people may change of an account, what is refused, and that trade and the executor take what is written."""

import json
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

import observator
from consumers.execute.account_form import FIXED, change, differences, shown
from consumers.execute.account_verbs import AccountVerbs, held, read_wanted
from consumers.execute.controls import Controls
from consumers.execute.halts import HaltGate
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.journal import Journal
from consumers.execute.limits import RiskGate, RiskLimits
from consumers.trade import positions
from consumers.trade.fold import Fold
from consumers.trade.ledgers import Order, Position, Rest
from consumers.trade.state import Account, Parameters, encode, money_context
from infra.errors import BadSettings
from infra.kafka import KafkaLog
from infra.log import Log, Slot, TopicSpec, partition_of
from infra.memory_log import MemoryLog
from infra.servers.kafka import KafkaServer
from infra.settings import PaperSettings
from models.strategies.registry import STRATEGIES
from streams import messages as m
from streams import topics

D = Decimal
BTC, ETH = "upbit:KRW-BTC", "upbit:KRW-ETH"
SETTINGS = m.AccountSettings(
    account="a", pocket="p", venue="paper", is_trading=True, budget=D(1000000), entry_funds=D(6000),
    threshold_percent=D("0.05"), fee_percent=D("0.05"), stop_percent=D("1.5"), hysteresis_percent=D(0),
    horizons_ms=[5000], markets=[], event_ms=1,
)  # fmt: skip


@pytest.fixture
def log() -> MemoryLog:
    return filled(MemoryLog())


def filled(log: Any) -> Any:
    """A log with the account's settings, and another account's."""
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    put(log, "controls", "a", msgspec.structs.replace(SETTINGS, budget=D(5)))
    put(log, "controls", "a", SETTINGS)
    put(log, "controls", "b", msgspec.structs.replace(SETTINGS, account="b", budget=D(7)))
    return log


def put(log: Log, topic: str, key: str, message: m.Message) -> None:
    publisher = log.publisher()
    publisher.publish(topic, key, m.encode(message))
    publisher.flush()
    publisher.close()


def controls(log: Log) -> list[Any]:
    slot = Slot("controls", 0)
    end = log.bounds([slot])[slot][1]
    reader = log.reader({slot: 0})
    found: list[Any] = []
    while len(found) < end:
        found += [topics.decode("controls", record.value) for record in reader.read(100, 1.0)]
    reader.close()
    return found


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(BadSettings) as found:
        call()
    return str(found.value)


# --- the form ---------------------------------------------------------------------------------------------------------


def test_every_field_is_shown_and_can_be_changed_but_the_fixed_ones() -> None:
    names = set(shown(SETTINGS))
    sections = {f"exits.{one}" for one in m.ExitRules.__struct_fields__}
    sections |= {f"limits.{one}" for one in m.RiskLimits.__struct_fields__}
    plain = set(m.AccountSettings.__struct_fields__) - {"exits", "limits", "event_ms"}
    assert names == plain | sections
    after, wrong = change(SETTINGS, {name: "none" for name in names if name.startswith("limits.")}, STRATEGIES)
    assert (after, wrong) == (SETTINGS, [])
    for name in FIXED:
        assert [(one.field, one.word) for one in change(SETTINGS, {name: "x"}, STRATEGIES)[1]] == [(name, "fixed")]


def test_good_values_from_text_numbers_and_sections() -> None:
    wanted = {
        "budget": 500000, "threshold_percent": "-0.5", "is_netting": True, "horizons_ms": [5000, 30000],
        "markets": ["KRW-BTC"], "user": "kim", "exits": {"trailing_percent": "2", "on_stale": "sell"},
        "limits.daily_loss": "50000", "limits": {"orders_per_day": 20, "cancel_ratio": "0.5"},
        "strategies": [{"id": "x", "parameters": {"threshold_percent": "0.2"}, "exits": {"time_stop_ms": 60000}}],
    }  # fmt: skip
    after, wrong = change(SETTINGS, wanted, STRATEGIES)
    assert wrong == []
    assert (after.budget, after.exits.trailing_percent, after.limits.daily_loss) == (D(500000), D(2), D(50000))
    assert (after.limits.orders_per_day, after.limits.cancel_ratio, after.exits.on_stale) == (20, 0.5, "sell")
    assert after.strategies[0].exits == m.ExitRules(time_stop_ms=60000)
    assert ("budget", "1000000", "500000") in differences(SETTINGS, after)
    assert {name for name, _, _ in differences(SETTINGS, after)} >= {"limits.cancel_ratio", "strategies", "user"}
    assert msgspec.json.decode(m.encode(after), type=m.AccountSettings) == after


@pytest.mark.parametrize(
    ("wanted", "field", "word"),
    [
        ({"budgt": 1}, "budgt", "no-field"),
        ({"limits.daily": 1}, "limits.daily", "no-field"),
        ({"exits": 5}, "exits", "no-field"),
        ({"budget": "many"}, "budget", "type"),
        ({"budget": -1}, "budget", "range"),
        ({"budget": "NaN"}, "budget", "range"),
        ({"budget": "sNaN"}, "budget", "range"),
        ({"budget": "Infinity"}, "budget", "range"),
        ({"budget": "1e30"}, "budget", "range"),
        ({"budget": "none"}, "budget", "type"),
        ({"budget": True}, "budget", "type"),
        ({"budget": "0.123456789"}, "budget", "too-fine"),
        ({"stop_percent": 0}, "stop_percent", "range"),
        ({"stop_percent": "101"}, "stop_percent", "range"),
        ({"limits": {"cancel_ratio": 1.5}}, "limits.cancel_ratio", "range"),
        ({"limits": {"orders_per_day": 2.5}}, "limits.orders_per_day", "type"),
        ({"exits": {"on_stale": "panic"}}, "exits.on_stale", "type"),
        ({"horizons_ms": []}, "horizons_ms", "empty"),
        ({"horizons_ms": [5000, 5000]}, "horizons_ms", "twice"),
        ({"horizons_ms": [1]}, "horizons_ms", "range"),
        ({"markets": ["BTC"]}, "markets", "market"),
        ({"user": "a b"}, "user", "name"),
        ({"strategies": [{"id": "a|b"}]}, "strategies[0].id", "name"),
        ({"strategies": [{"id": "a"}, {"id": "a"}]}, "strategies[1].id", "twice"),
        ({"strategies": [{"id": "a", "kind": "magic"}]}, "strategies[0].kind", "strategy"),
        ({"strategies": [{"id": "a", "parameters": {"x": "1"}}]}, "strategies[0].kind", "strategy"),
        ({"strategies": [{"id": "a", "entry": 5}]}, "strategies[0].entry", "no-field"),
        ({"strategies": [{"id": "a", "exits": {"x": 5}}]}, "strategies[0].exits.x", "no-field"),
        ({"strategies": [{"id": "a", "exits": {"stale_sell_ms": -1}}]}, "strategies[0].exits.stale_sell_ms", "range"),
        ({"strategies": [{"id": "a", "entry_funds": 0}]}, "strategies[0].entry_funds", "range"),
        ({"strategies": [{"kind": "order-book"}]}, "strategies", "type"),
        ({"strategies": "order-book"}, "strategies", "type"),
    ],
)  # fmt: skip
def test_a_field_that_is_refused_is_named_and_nothing_changes(wanted: dict[str, object], field: str, word: str) -> None:
    after, wrong = change(SETTINGS, wanted, STRATEGIES)
    assert [(one.field, one.word) for one in wrong] == [(field, word)]
    assert after == SETTINGS
    assert wrong[0].text("en").startswith(f"{field} (")
    assert "{" not in wrong[0].text("ko")


def test_wanted_fields_come_from_a_file_options_and_pairs(tmp_path: Path) -> None:
    toml, plain = tmp_path / "s.toml", tmp_path / "s.json"
    toml.write_text('budget = 1.5\n[limits]\ndaily_loss = 10\n[[strategies]]\nid = "x"\n')
    found = read_wanted(toml, {"budget": "9", "stop_percent": None}, ["limits.drawdown=7", "markets=KRW-BTC,KRW-ETH"])
    assert found == {
        "budget": "9", "limits": {"daily_loss": 10, "drawdown": 7}, "strategies": [{"id": "x"}],
        "markets": ["KRW-BTC", "KRW-ETH"],
    }  # fmt: skip
    plain.write_text('{"budget": 0.1}')
    assert read_wanted(plain, {}, ["limits.drawdown=none"]) == {"budget": "0.1", "limits.drawdown": "none"}
    for content in ("{", "[1]", "\udcff"):
        plain.write_bytes(content.encode(errors="surrogateescape"))
        assert "s.json" in refused(lambda: read_wanted(plain, {}, []))
    assert "does not exist" in refused(lambda: read_wanted(tmp_path / "no", {}, []))
    assert "NAME=VALUE" in refused(lambda: read_wanted(None, {}, ["budget"]))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_all_refused_fields_are_named_in_both_languages(log: MemoryLog) -> None:
    for verbs, word in ((AccountVerbs(log, "a"), "no such field"), (AccountVerbs(log, "a", "ko"), "없는 항목")):
        text = refused(lambda verbs=verbs: verbs.draft_settings({"x": 1, "budget": -1}, STRATEGIES))
        assert word in text
        assert "budget (" in text
    assert "no account" in refused(lambda: AccountVerbs(log, "z").draft_settings({}, STRATEGIES))
    assert len(controls(log)) == 3


def test_a_stopped_account_stays_stopped_when_something_else_is_changed(log: MemoryLog) -> None:
    put(log, "controls", "a", m.TradingStopped(account="*", event_ms=2, by="t"))
    draft = AccountVerbs(log, "a").draft_settings({"budget": 1}, STRATEGIES)
    assert isinstance(draft.message, m.AccountSettings)
    assert not draft.message.is_trading
    assert [change["field"] for change in draft.figures["changes"]] == ["budget"]


def test_a_stop_while_a_person_is_asked_is_not_undone(log: MemoryLog) -> None:
    verbs = AccountVerbs(log, "a")
    draft = verbs.draft_settings({"budget": 1}, STRATEGIES)
    put(log, "controls", "a", m.TradingStopped(account="a", event_ms=2, by="t"))
    verbs.write(draft)
    assert (controls(log)[-1].budget, controls(log)[-1].is_trading) == (D(1), False)
    verbs.write(verbs.draft_settings({"is_trading": True}, STRATEGIES))
    assert controls(log)[-1].is_trading


@pytest.fixture
def call(broker: KafkaServer, kafka_log: KafkaLog, tmp_path: Path) -> Callable[..., Result]:
    filled(kafka_log)
    environ = {"OBSERVATOR_KAFKA__BOOTSTRAP": broker.bootstrap, "OBSERVATOR_KAFKA__PREFIX": kafka_log.prefix}
    runner = CliRunner()
    return lambda *arguments, typed="": runner.invoke(
        observator.app, ["--home", str(tmp_path), "account", *arguments], env=environ, input=typed
    )


@pytest.mark.kafka
def test_settings_are_shown_asked_for_written_and_taken(call: Callable[..., Result], kafka_log: KafkaLog) -> None:
    found = json.loads(call("show", "a", "--json").output)
    assert (found["budget"], found["limits.daily_loss"], found["venue"]) == ("1000000", "none", "paper")
    assert "stop_percent = 1.5" in call("show", "a").output
    change = ("set", "a", "--budget", "500000", "--set", "limits.daily_loss=40000", "--threshold", "0.1")
    result = call(*change, typed="n\n")
    assert result.exit_code == 1
    assert "budget: 1000000 -> 500000" in result.output
    assert "Nothing was written" in result.output
    assert isinstance(call("set", "a", "--set", "x=1", "--yes").exception, BadSettings)
    assert len(controls(kafka_log)) == 3
    assert "바꿀까요" in call(*change, "--language", "ko", typed="y\n").output
    result = call("set", "a", "--stop", "3", "--yes", "--json")
    told = json.loads(result.stdout)
    assert told == {
        "account": "a",
        "changes": [{"field": "stop_percent", "before": "1.5", "after": "3"}],
        "is_written": True,
    }
    assert "Nothing changes" in call("set", "a", "--stop", "3").output
    *_, first, second = written = controls(kafka_log)
    assert len(written) == 5
    assert (first.budget, first.limits.daily_loss, first.stop_percent) == (D(500000), D(40000), D("1.5"))
    assert (second.budget, second.stop_percent, second.pocket) == (D(500000), D(3), "p")
    fold = Fold(Parameters(), money_context())
    for message in written:
        fold.take(message)
    assert fold.state.accounts["a"].settings == second
    assert fold.state.accounts["b"].settings.budget == D(7)


def test_another_account_takes_the_settings_values_and_does_not_trade(log: MemoryLog) -> None:
    paper = PaperSettings(account="a", pocket="p", budget="70000")
    verbs = AccountVerbs(log, "second")
    draft = verbs.draft_new("p2", {"entry_funds": "9000"}, STRATEGIES, paper)
    verbs.write(draft)
    made = controls(log)[-1]
    assert (made.account, made.pocket, made.venue, made.is_trading) == ("second", "p2", "paper", False)
    assert (made.budget, made.entry_funds) == (D(70000), D(9000))
    assert "already" in refused(lambda: verbs.write(draft))
    assert "already" in refused(lambda: verbs.draft_new("p2", {}, STRATEGIES, paper))
    assert "already" in refused(lambda: AccountVerbs(log, "a").draft_new("p2", {}, STRATEGIES, paper))
    for account, pocket in (("*", "p2"), ("third", "../p"), ("third", "")):
        text = refused(lambda one=account, at=pocket: AccountVerbs(log, one).draft_new(at, {}, STRATEGIES, paper))
        assert "is no name" in text
    third = AccountVerbs(log, "third")
    assert "venue (" in refused(lambda: third.draft_new("p", {"venue": "live"}, STRATEGIES, paper))
    unmade = PaperSettings(account="default", pocket="p")
    assert "at its first start" in refused(lambda: third.draft_new("p", {}, STRATEGIES, unmade))
    assert len(controls(log)) == 4


@pytest.mark.kafka
def test_an_account_is_made_by_the_command_line(call: Callable[..., Result], kafka_log: KafkaLog) -> None:
    result = call("add", "second", "--pocket", "p2", "--set", "budget=123456", typed="n\n")
    assert (result.exit_code, "budget = 123456" in result.output) == (1, True)
    assert len(controls(kafka_log)) == 3
    told = json.loads(call("add", "second", "--pocket", "p2", "--yes", "--json").stdout)
    assert (told["is_written"], told["settings"]["is_trading"], told["settings"]["venue"]) == (True, "false", "paper")
    assert json.loads(call("show", "second", "--json").output)["pocket"] == "p2"
    assert "changes" in call("set", "second", "--set", "is_trading=true", "--yes", "--json").output
    fold = Fold(Parameters(), money_context())
    for message in controls(kafka_log):
        fold.take(message)
    assert fold.state.accounts["second"].is_trading


# --- an accepted ledger -----------------------------------------------------------------------------------------------


def doubtful() -> Account:
    """Holds 0.5 BTC and 0.1 as dust of another strategy, 2 ETH; a buy of ETH is lost."""
    position = {"due_ms": 9, "opened_ms": 1, "horizon_ms": 5000, "exchange": "upbit"}
    lost = Order(
        intent_id="i", exchange="upbit", market="KRW-ETH", side="buy", purpose="entry", reserved=D(6003), due_ms=9,
        horizon_ms=5000, signal_id="s", event_ms=1, state="unknown", is_lost=True,
    )  # fmt: skip
    return Account(
        settings=SETTINGS,
        is_trading=True,
        is_ledger_broken=True,
        positions={
            BTC: Position(market="KRW-BTC", entry_intent="x", quantity=D("0.5"), funds=D(5), cost=D(6), **position),
            ETH: Position(market="KRW-ETH", entry_intent="y", quantity=D(2), funds=D(5), cost=D(6), **position),
        },
        rests={f"other|{BTC}": Rest(quantity=D("0.1"), funds=D(1), cost=D(1))},
        orders={"i": lost},
    )


def tell(log: Log, account: Account, **pocket: str) -> None:
    state = m.AccountState(account="a", state=msgspec.Raw(encode(account)), cursor={}, event_ms=1)
    put(log, "account-states", "a", state)
    for currency, amount in pocket.items():
        half = D(amount) / 2
        put(log, "balances", "p", m.Balance(
            pocket="p", currency=currency, available=half, locked=half, average_price=D(1), event_ms=1
        ))  # fmt: skip


def test_a_person_must_name_what_is_in_doubt_and_no_more_than_there_is(log: MemoryLog) -> None:
    verbs = AccountVerbs(log, "a")
    assert "no account" in refused(lambda: verbs.draft_ledger([]))
    tell(log, Account(settings=SETTINGS, is_trading=True))
    assert "not stopped" in refused(lambda: verbs.draft_ledger([]))
    tell(log, doubtful(), BTC="0.4", ETH="3")
    assert "of KRW-BTC, KRW-ETH:" in refused(lambda: verbs.draft_ledger([]))
    assert "of KRW-BTC:" in refused(lambda: verbs.draft_ledger(["KRW-ETH=2"]))
    assert "cannot hold 4" in refused(lambda: verbs.draft_ledger(["KRW-ETH=4", "KRW-BTC=0"]))
    assert "no ledger of KRW-XRP" in refused(lambda: verbs.draft_ledger(["KRW-XRP=1"]))
    for text in (
        "KRW-BTC",
        "KRW-BTC=",
        "=1",
        "KRW-BTC=-1",
        "KRW-BTC=NaN",
        "KRW-BTC=1e99",
        "KRW-BTC=0.123456789",
        "x=1",
    ):
        assert "MARKET=QUANTITY" in refused(lambda text=text: verbs.draft_ledger([text]))
    draft = verbs.draft_ledger(["krw-btc=0.4", "KRW-ETH=3"])
    assert isinstance(draft.message, m.LedgerAccepted)
    assert draft.message.holdings == {BTC: D("0.4"), ETH: D(3)}
    assert any("ledger 0.6, from now on 0.4" in line and "holds 0.4 of BTC" in line for line in draft.lines)
    assert any("lost order" in line and "KRW-ETH (i)" in line for line in draft.lines)
    tell(log, doubtful(), BTC="9")
    assert "ledger 0.6, from now on 0.6" in " ".join(verbs.draft_ledger(["KRW-ETH=0"]).lines)


def test_one_that_holds_nothing_can_be_accepted_too(log: MemoryLog) -> None:
    tell(log, Account(settings=SETTINGS, is_trading=True, is_ledger_broken=True))
    draft = AccountVerbs(log, "a", "ko").draft_ledger([])
    assert draft.lines == ["장부상 보유량이 없습니다."]
    assert isinstance(draft.message, m.LedgerAccepted)
    assert draft.message.holdings == {}


def test_one_that_is_not_stopped_can_be_accepted_where_its_pocket_holds_less(log: MemoryLog) -> None:
    whole = msgspec.structs.replace(doubtful(), is_ledger_broken=False, orders={})
    tell(log, whole, BTC="0.6", ETH="2")
    assert "nothing to accept" in refused(lambda: AccountVerbs(log, "a").draft_ledger([]))
    tell(log, whole, BTC="0.25")
    assert "KRW-BTC" in refused(lambda: AccountVerbs(log, "a").draft_ledger([]))
    message = AccountVerbs(log, "a").draft_ledger(["KRW-BTC=0.25"]).message
    assert isinstance(message, m.LedgerAccepted)
    assert message.holdings == {BTC: D("0.25"), ETH: D(2)}


@pytest.mark.kafka
def test_an_accepted_ledger_is_written_and_both_stages_go_on(
    call: Callable[..., Result], kafka_log: KafkaLog, tmp_path: Path
) -> None:
    tell(kafka_log, doubtful(), BTC="9", ETH="9")
    assert json.loads(call("show", "a", "--json").output)["is_ledger_stopped"] is True
    assert json.loads(call("show", "a", "--json").output)[f"held.{BTC}"] == "0.6"
    result = call("accept-ledger", "a", "--holding", "KRW-ETH=3", typed="n\n")
    assert (result.exit_code, len(controls(kafka_log))) == (1, 3)
    result = call("accept-ledger", "a", "--holding", "KRW-ETH=3", "--yes", "--json")
    told = json.loads(result.stdout)
    assert told == {"account": "a", "holdings": {"KRW-BTC": "0.6", "KRW-ETH": "3"}, "lost": ["i"], "is_written": True}
    accepted = controls(kafka_log)[-1]
    account = doubtful()
    positions.accept_ledger(account, accepted.holdings, 100)
    assert held(account) == {BTC: D("0.6"), ETH: D(3)}
    assert not account.is_ledger_broken
    with closing(Journal(tmp_path / "execution.sqlite")) as journal:
        journal.correct_held("a", "", "KRW-ETH", bought=D(2))
        halts = HaltKeeper(tmp_path, HaltGate())
        reader = Controls(kafka_log, journal, RiskGate(RiskLimits(), lambda: 0.0), lambda: 0, halts)
        while reader.is_behind():
            reader.step(1.0)
        reader.close()
        halts.close()
        assert journal.left_of("a", "", "KRW-ETH") == D(3)


def test_balances_of_another_pocket_say_nothing(log: MemoryLog) -> None:
    tell(log, doubtful())
    slots = log.partitions("balances")
    other = next(f"q{n}" for n in range(1000) if partition_of(f"q{n}", slots) == partition_of("p", slots))
    put(log, "balances", other, m.Balance(
        pocket=other, currency="BTC", available=D(0), locked=D(0), average_price=D(1), event_ms=1
    ))  # fmt: skip
    assert "an unknown amount" in " ".join(AccountVerbs(log, "a").draft_ledger(["KRW-ETH=3"]).lines)
