"""Keys from the command to the gateway: a real journal, the real sandbox exchange, the in-memory log."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.execute.journal import Journal
from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.keys_check import Asking
from consumers.execute.keys_content import sealed_for
from consumers.execute.keys_keeper import AGAIN_MS, DAY_MS, KeyKeeper
from consumers.execute.keys_reader import KeyReader
from infra.log import Slot, TopicSpec
from infra.memory_log import MemoryLog
from infra.secrets import Secret
from infra.secrets_box import PRIVATE, PUBLIC, id_of, new_pair, put_pairs, read_public
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread
from streams import messages as m
from streams import topics

TRADING = ["view_account", "view_orders", "make_orders"]
FILE_KEY = ExchangeKey("file", "of-the-sandbox")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    plan = Plan(markets=("KRW-BTC",))
    with SandboxThread(home, kind="synthetic", plan=plan, warmup_seconds=0, is_limited=False) as sandbox:
        yield sandbox


class House:
    """One executor's keys; `again` is a restart."""

    def __init__(self, home: Path, sandbox: SandboxThread) -> None:
        self.home = home
        self.sandbox = sandbox
        self.late_ms = 0
        self.log = MemoryLog(clock_ms=self.wall_ms)
        self.log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
        self.files = HeldKeys({"paper-main": FILE_KEY})
        self.publisher = self.log.publisher()
        self.open()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.late_ms

    def open(self) -> None:
        self.journal = Journal(self.home / "db" / "execution.sqlite")

        def ask(_pocket: str, access_key: str, secret_key: Secret) -> Asking:
            return Asking(self.sandbox.url, access_key, secret_key)

        self.keeper = KeyKeeper(self.home, self.journal, self.files, ask, self.wall_ms)
        self.reader = KeyReader(self.home, self.log, self.journal, self.keeper, self.wall_ms)

    def close(self) -> None:
        self.reader.close()
        self.journal.close()

    def again(self) -> None:
        self.close()
        self.open()

    def key(self, **values: object) -> tuple[str, str]:
        wanted = {"account": self.sandbox.access_key, "permissions": TRADING, **values}
        made = self.sandbox.control("POST", "/sandbox/keys", wanted)
        return made["access_key"], made["secret_key"]

    def deposited(self, key: tuple[str, str], key_id: str = "first", **outside: Any) -> m.KeyDeposited:
        public = read_public(self.home / PUBLIC)
        names = {"account": "paper", "pocket": "paper-main", "key_id": key_id}
        sealed = sealed_for(public, **names, access_key=key[0], secret_key=Secret(key[1]))
        fields = {**names, "sealed": sealed, "public_key_id": id_of(public), "event_ms": 1, "by": "test"}
        return m.KeyDeposited(**(fields | outside))

    def command(self, message: m.Message | bytes) -> None:
        value = message if isinstance(message, bytes) else m.encode(message)
        self.publisher.publish("commands", "paper", value)
        self.publisher.flush()
        while not self.reader.step(0.0):
            pass
        self.keeper.tick()

    def told(self) -> list[m.KeyTold]:
        return [topics.decode(row.topic, row.payload) for row in self.journal.unpublished()]

    def words(self) -> list[tuple[str, str, str]]:
        return [(one.key_id, one.state, one.reason) for one in self.told()]

    @property
    def key_now(self) -> ExchangeKey | None:
        return self.keeper.key_of("paper-main")


@pytest.fixture
def house(tmp_path: Path, sandbox: SandboxThread) -> Iterator[House]:
    house = House(tmp_path, sandbox)
    yield house
    house.close()
    house.publisher.close()
    house.log.close()
    sandbox.clear_faults()
    for key in sandbox.control("GET", f"/sandbox/keys?account={sandbox.access_key}")["keys"][1:]:
        sandbox.control("DELETE", f"/sandbox/keys/{key['access_key']}")


# --- taking ----------------------------------------------------------------------------------------------------------


def test_a_good_key_is_taken_and_stays_over_a_restart(house: House) -> None:
    assert house.key_now == FILE_KEY
    key = house.key()
    house.command(house.deposited(key))
    assert house.key_now == ExchangeKey(*key)
    assert house.keeper.is_checked("paper-main")
    (told,) = house.told()
    assert (told.state, told.reason, told.access_key) == ("taken", "", f"{key[0][:4]}...{key[0][-2:]}")
    assert told.expires_ms is not None
    house.again()
    assert house.key_now == ExchangeKey(*key)
    assert house.keeper.key_of("another") is None


def test_no_secret_stands_on_disk_or_in_what_is_told(house: House) -> None:
    key = house.key()
    house.command(house.deposited(key))
    house.command(house.deposited((key[0], "b" * 40), "wrong"))
    assert [one.state for one in house.told()] == ["taken", "refused"]
    written = b"".join(file.read_bytes() for file in (house.home / "db").iterdir())
    assert b"paper-main" in written
    for canary in (key[0], key[1], "b" * 40):
        assert canary.encode() not in written
        assert canary not in "".join(map(repr, house.told()))
    assert (house.home / PRIVATE).stat().st_mode & 0o777 == 0o600
    assert (house.home / PRIVATE).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"permissions": [*TRADING, "withdraw"]}, "may-withdraw"),
        ({"permissions": ["view_account", "view_orders"]}, "no-order-right"),
        ({"expires_in_seconds": -1}, "expired"),
        ({"addresses": ["10.0.0.1"]}, "address-not-allowed"),
    ],
)
def test_a_bad_key_is_refused_and_erased(house: House, values: dict[str, object], reason: str) -> None:
    house.command(house.deposited(house.key(**values)))
    assert house.words() == [("first", "refused", reason)]
    (row,) = house.keeper.book.store.rows()
    assert (row.state, row.sealed) == ("refused", "")
    assert house.key_now == FILE_KEY, "a refused key changes nothing"
    assert not house.keeper.is_checked("paper-main")


# --- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["account", "pocket", "key_id"])
def test_a_box_that_names_another_is_refused(house: House, name: str) -> None:
    house.command(m.msgspec.structs.replace(house.deposited(house.key()), **{name: "stolen"}))
    assert [one.reason for one in house.told()] == ["not-this-account"]
    assert house.keeper.book.store.rows() == []


def test_the_same_box_is_taken_once(house: House) -> None:
    key, other = house.key(), house.key()
    first = house.deposited(key)
    house.command(first)
    house.command(house.deposited(other, "second"))
    house.command(first)  # somebody who can write into the topic brings the old key back
    house.command(m.KeyRemoved(account="paper", pocket="paper-main", key_id="second", event_ms=3, by="test"))
    house.command(first)
    assert house.words() == [
        ("first", "taken", ""),
        ("second", "taken", ""),
        ("first", "replaced", ""),
        ("first", "refused", "replayed"),
        ("second", "removed", ""),
        ("first", "refused", "replayed"),
    ]
    assert house.key_now is None, "a pocket whose key was removed does not fall back to another one"


@pytest.mark.parametrize("sealed", ["", "no base64!", "AAAA", "A" * 200])
def test_what_cannot_be_opened_is_refused(house: House, sealed: str) -> None:
    house.command(house.deposited(house.key(), sealed=sealed))
    assert [one.reason for one in house.told()] == ["unreadable-box"]


def test_one_changed_byte_or_another_spelling_of_a_box_is_refused(house: House) -> None:
    good = house.deposited(house.key())
    letter = "B" if good.sealed[60] == "A" else "A"
    for sealed in (good.sealed[:60] + letter + good.sealed[61:], good.sealed + "\n", good.sealed.rstrip("=") + "===="):
        house.command(m.msgspec.structs.replace(good, sealed=sealed))
    assert {one.reason for one in house.told()} == {"unreadable-box"}


def test_a_box_for_another_public_key_says_so(house: House) -> None:
    old = house.deposited(house.key())
    put_pairs(house.home, [new_pair()])
    house.command(old)
    assert [one.reason for one in house.told()] == ["other-public-key"]
    house.command(house.deposited(house.key()))
    assert house.told()[-1].state == "taken", "a pair that was made meanwhile is taken up"


def test_a_record_that_cannot_be_read_is_a_dead_letter_and_the_next_one_counts(house: House) -> None:
    house.command(b'{"type":"key-deposited","sealed":')
    house.command(house.deposited(house.key()))
    assert house.words() == [("first", "taken", "")]
    reader = house.log.reader({Slot("dead-letters", one): 0 for one in range(4)})
    assert len(reader.read(10, 0.0)) == 1
    reader.close()


# --- no answer -------------------------------------------------------------------------------------------------------


def test_a_key_waits_for_an_exchange_that_does_not_answer(house: House) -> None:
    house.sandbox.fault("server-error", method="GET", path="/v1/accounts", count=None)
    key = house.key()
    house.command(house.deposited(key))
    house.keeper.tick()
    assert house.words() == [("first", "waiting", "not-checked")]
    assert house.key_now == FILE_KEY
    house.again()
    house.sandbox.clear_faults()
    house.late_ms = AGAIN_MS
    house.keeper.tick()
    assert house.words()[-1] == ("first", "taken", "")
    assert house.key_now == ExchangeKey(*key)


def test_a_key_in_use_stays_in_use_while_the_exchange_does_not_answer(house: House) -> None:
    house.command(house.deposited(house.key()))
    before = house.key_now
    house.sandbox.fault("lost-request", method="GET", path="*", count=None)
    house.keeper.refused("paper-main", "jwt_verification")
    house.keeper.tick()
    assert house.key_now == before
    house.command(m.KeyCheckRequested(account="paper", pocket="paper-main", event_ms=1, by="test"))
    assert house.words()[-1] == ("first", "taken", "not-checked")


# --- rotation --------------------------------------------------------------------------------------------------------


def test_a_new_key_takes_the_place_of_the_old_one_when_it_is_checked_and_not_before(house: House) -> None:
    old, new = house.key(), house.key()
    house.command(house.deposited(old, "old"))
    house.sandbox.fault("server-error", method="GET", path="/v1/api_keys", count=1)
    house.command(house.deposited(new, "new"))
    assert house.key_now == ExchangeKey(*old)
    house.late_ms = AGAIN_MS
    house.keeper.tick()
    assert house.key_now == ExchangeKey(*new)
    assert house.words()[-2:] == [("new", "taken", ""), ("old", "replaced", "")]
    assert [row.state for row in house.keeper.book.store.rows() if row.sealed] == ["taken"]


def test_a_new_key_that_is_not_good_leaves_the_old_one_in_use(house: House) -> None:
    old = house.key()
    house.command(house.deposited(old, "old"))
    house.command(house.deposited(house.key(permissions=[*TRADING, "withdraw"]), "new"))
    assert house.words()[-1] == ("new", "refused", "may-withdraw")
    assert house.key_now == ExchangeKey(*old)


def test_a_key_of_another_pocket_does_not_take_its_place(house: House) -> None:
    house.command(house.deposited(house.key(), "old"))
    house.sandbox.control("POST", "/sandbox/accounts", {"access_key": "elsewhere", "balances": {"KRW": "1000"}})
    before = house.key_now
    house.command(house.deposited(house.key(account="elsewhere"), "new"))
    assert house.words()[-1] == ("new", "refused", "other-pocket")
    assert house.key_now == before


# --- later -----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_taken_back_at_the_exchange_is_not_used_until_it_is_good_again(house: House) -> None:
    key = house.key()
    house.command(house.deposited(key))
    house.sandbox.control("DELETE", f"/sandbox/keys/{key[0]}")
    house.keeper.refused("paper-main", "invalid_access_key")
    house.keeper.tick()
    assert house.words()[-1] == ("first", "blocked", "wrong-key")
    assert house.key_now is None
    house.again()
    assert house.key_now is None
    other = house.key()
    house.command(house.deposited(other, "second"))
    assert house.key_now == ExchangeKey(*other)
    assert house.words()[-2:] == [("second", "taken", ""), ("first", "replaced", "")]


def test_the_end_of_a_key_is_told_three_times_before_it_comes(house: House) -> None:
    house.command(house.deposited(house.key(expires_in_seconds=20 * 86_400)))
    told = []
    for left_days in (15, 13.9, 13, 8, 6.9, 6.5, 1.1, 0.9, 0.5):
        house.late_ms = int((20 - left_days) * DAY_MS)
        house.keeper.tick()
        told.append(sum(one.state == "expiring" for one in house.told()))
    assert told == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    house.again()
    house.keeper.tick()
    assert sum(one.state == "expiring" for one in house.told()) == 3, "a restart does not tell it again"
    assert house.keeper.is_checked("paper-main")
    house.late_ms = 20 * DAY_MS
    house.keeper.tick()
    assert house.words()[-1] == ("first", "blocked", "expired")
    assert house.key_now is None
    assert not house.keeper.is_checked("paper-main")


def test_a_check_that_was_asked_for_is_answered(house: House) -> None:
    house.command(house.deposited(house.key()))
    count = len(house.told())
    house.command(m.KeyCheckRequested(account="paper", pocket="paper-main", event_ms=1, by="test"))
    house.command(m.KeyCheckRequested(account="other", pocket="paper-main", event_ms=1, by="test"))
    assert house.words()[count:] == [("first", "taken", "")]


def test_only_the_account_itself_removes_its_key(house: House) -> None:
    house.command(house.deposited(house.key()))
    house.command(m.KeyRemoved(account="other", pocket="paper-main", key_id="first", event_ms=1, by="test"))
    house.command(m.KeyRemoved(account="paper", pocket="paper-main", key_id="other", event_ms=1, by="test"))
    assert house.words() == [("first", "taken", "")]


def test_commands_are_carried_out_once_over_restarts(house: House) -> None:
    house.command(house.deposited(house.key()))
    house.again()
    assert house.reader.step(0.0) == 0
    assert house.words() == [("first", "taken", "")]
