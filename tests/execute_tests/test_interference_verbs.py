"""What people see of a paused account, and their word that it may go on."""

from decimal import Decimal

import msgspec
import pytest

from consumers.execute.interference import PAUSING
from consumers.execute.interference_verbs import WORDS, accounts, resume, row_of, text_of
from consumers.trade.state import Account, encode
from infra.errors import BadSettings
from infra.log import Log, Slot, TopicSpec
from infra.memory_log import MemoryLog
from streams import messages as m
from streams import topics


def settings(name: str) -> m.AccountSettings:
    return m.AccountSettings(
        account=name, pocket=f"p-{name}", venue="paper", is_trading=True, budget=Decimal(1000),
        entry_funds=Decimal(100), threshold_percent=Decimal(0), fee_percent=Decimal(0), stop_percent=Decimal(1),
        hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
    )  # fmt: skip


@pytest.fixture
def log() -> Log:
    log = MemoryLog()
    log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    publisher = log.publisher()
    for name, paused in (("b", ""), ("a", ""), ("a", "coins-moved")):
        state = encode(Account(settings=settings(name), is_trading=True, paused=paused))
        publisher.publish(
            "account-states",
            name,
            m.encode(m.AccountState(account=name, state=msgspec.Raw(state), cursor={}, event_ms=1)),
        )
    publisher.publish("account-states", "c", b"no state")
    publisher.close()
    return log


def controls(log: Log) -> list[m.AccountResumed]:
    reader = log.reader({Slot("controls", 0): 0})
    return [topics.decode("controls", record.value) for record in reader.read(10, 0.0)]


def test_the_newest_state_of_every_account_is_listed_in_both_languages(log: Log) -> None:
    rows = [row_of(account) for account in accounts(log).values()]
    assert [(row["account"], row["paused"]) for row in rows] == [("a", text_of("coins-moved")), ("b", "")]
    assert "다른 경로" in row_of(accounts(log)["a"], "ko")["paused"]
    assert text_of("something-new") == "something-new"
    assert set(WORDS) > PAUSING


def test_only_a_deliberate_word_resumes_a_paused_account(log: Log) -> None:
    for name, looked, ask, wrong in (
        ("b", True, None, "not paused"),
        ("z", True, None, "no account"),
        ("a", False, None, "--yes-i-looked"),
        ("a", False, lambda _: "b", "nothing was changed"),
    ):
        with pytest.raises(BadSettings, match=wrong):
            resume(log, name, has_looked=looked, ask=ask)
    assert controls(log) == []
    resume(log, "a", has_looked=False, ask=lambda question: "a" if "moved by somebody else" in question else "")
    resume(log, "a", has_looked=True, ask=None)
    assert [one.account for one in controls(log)] == ["a", "a"]
