"""Real money is refused: each of the three things that it needs apart, and with all three as well."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumers.execute import keys_host
from consumers.execute.guard import check_address
from consumers.execute.journal import Journal
from consumers.execute.keys_live import LiveGate, is_armed
from consumers.execute.keys_store import ArmedRow, KeyRow, KeyStore
from infra.errors import BadSettings, Stop, Unsupported
from infra.secrets_box import PRIVATE, keep_pair, seal
from infra.settings import Settings
from streams.messages import AccountSettings

if TYPE_CHECKING:
    from infra.servers.postgres import PostgresServer


def settings_of(venue: str, account: str = "rich") -> AccountSettings:
    return AccountSettings(
        account=account,
        pocket="main",
        venue=venue,
        is_trading=True,
        budget=Decimal(1),
        entry_funds=Decimal(1),
        threshold_percent=Decimal(1),
        fee_percent=Decimal(1),
        stop_percent=Decimal(1),
        hysteresis_percent=Decimal(0),
        horizons_ms=[5000],
        markets=[],
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "db" / "execution.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def store(tmp_path: Path, journal: Journal) -> KeyStore:
    keep_pair(tmp_path)
    return KeyStore(journal.transaction)


def gate_of(home: Path, store: KeyStore, *, is_allowed: bool = True, has_key: bool = True) -> LiveGate:
    return LiveGate(home, store, lambda _: has_key, is_allowed=is_allowed)


def test_a_paper_account_is_asked_for_nothing(tmp_path: Path, store: KeyStore) -> None:
    gate = gate_of(tmp_path, store, is_allowed=False, has_key=False)
    assert gate.refusal("rich", "main") == ""
    gate.learn(settings_of("paper"))
    assert gate.refusal("rich", "main") == ""


@pytest.mark.parametrize("is_allowed", [False, True])
@pytest.mark.parametrize("armed", [False, True])
@pytest.mark.parametrize("has_key", [False, True])
def test_each_of_the_three_is_asked_for_and_named(
    tmp_path: Path, store: KeyStore, *, is_allowed: bool, armed: bool, has_key: bool
) -> None:
    if armed:
        keys_host.arm(Settings(home=tmp_path), "rich", "rich", "test")
    gate = gate_of(tmp_path, store, is_allowed=is_allowed, has_key=has_key)
    gate.learn(settings_of("live"))
    refusal = gate.refusal("rich", "main")
    assert refusal.startswith("live trading is refused: ")
    assert ("execute.allow_live" in refusal) == (not is_allowed)
    assert ("observator arm --account rich" in refusal) == (not armed)
    assert ("observator keys add" in refusal) == (not has_key)
    assert ("no address of the real exchange" in refusal) == (is_allowed and armed and has_key)


def test_where_an_account_trades_is_known_after_a_restart(tmp_path: Path, store: KeyStore) -> None:
    gate_of(tmp_path, store).learn(settings_of("live"))
    assert "rich" in gate_of(tmp_path, store).refusal("rich", "main")
    gate_of(tmp_path, store).learn(settings_of("paper"))
    assert gate_of(tmp_path, store).refusal("rich", "main") == ""


def test_only_loopback_is_spoken_to_whatever_is_armed(tmp_path: Path, store: KeyStore) -> None:
    keys_host.arm(Settings(home=tmp_path), "rich", "rich", "test")
    assert is_armed(tmp_path, store, "rich")
    for address in ("https://api.upbit.com", "http://10.0.0.1:80", "https://sg-api.upbit.com"):
        with pytest.raises(Unsupported):
            check_address(address)


# --- arming ----------------------------------------------------------------------------------------------------------


def test_the_name_must_be_typed_and_the_private_file_readable(tmp_path: Path, store: KeyStore) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(BadSettings, match="nothing was armed"):
        keys_host.arm(settings, "rich", "yes", "test")
    (tmp_path / PRIVATE).rename(tmp_path / "away")
    with pytest.raises(BadSettings, match="is not there"):
        keys_host.arm(settings, "rich", "rich", "test")
    assert store.armed() == []


def test_a_row_that_somebody_else_wrote_arms_nothing(tmp_path: Path, store: KeyStore) -> None:
    settings = Settings(home=tmp_path)
    store.arm(ArmedRow("rich", 1, "somebody", "00" * 32))
    assert not is_armed(tmp_path, store, "rich")
    keys_host.arm(settings, "rich", "rich", "test")
    (row,) = store.armed()
    store.arm(row._replace(account="other"))
    assert is_armed(tmp_path, store, "rich")
    assert not is_armed(tmp_path, store, "other"), "a mark is good for its account alone"
    assert keys_host.disarm(settings, "rich") == {"account": "rich", "was_armed": True, "is_armed": False}
    assert not is_armed(tmp_path, store, "rich")


def test_without_a_database_it_is_said_what_to_do(tmp_path: Path) -> None:
    keep_pair(tmp_path)
    for call in (keys_host.listed, keys_host.reseal):
        with pytest.raises(Stop, match="started first"):
            call(Settings(home=tmp_path))


# --- sealing anew ----------------------------------------------------------------------------------------------------


def row_of(box_id: str, sealed: str, public_key_id: str, state: str = "taken") -> KeyRow:
    return KeyRow(box_id, "rich", "main", box_id, state, "", sealed, public_key_id, "Ab3d...0h", None, 1, 1, None)


def test_all_boxes_are_sealed_for_the_new_pair_and_the_old_one_is_gone(tmp_path: Path, store: KeyStore) -> None:
    settings, old = Settings(home=tmp_path), keep_pair(tmp_path)
    for name in ("one", "two"):
        store.add(row_of(name, seal(old.public, name.encode()), old.id))
    store.add(row_of("gone", "", old.id, "removed"))
    keys_host.arm(settings, "rich", "rich", "test")
    found = keys_host.reseal(settings)
    new = keep_pair(tmp_path)
    assert found == {"public_key_id": new.id, "keys": 2, "disarmed": ["rich"]}
    assert new != old
    assert old.private.hex() not in (tmp_path / PRIVATE).read_text()
    assert {row.box_id: new.open(row.sealed) for row in store.rows() if row.sealed} == {"one": b"one", "two": b"two"}
    assert not is_armed(tmp_path, store, "rich")
    assert [row["state"] for row in keys_host.listed(settings)] == ["removed", "taken", "taken"]


@pytest.mark.postgres
def test_the_same_on_postgresql_beside_the_one_that_holds_the_lease(
    tmp_path: Path, empty_postgres: "PostgresServer"
) -> None:
    settings = Settings.model_validate({"home": tmp_path, "execute": {"database": empty_postgres.address}})
    old = keep_pair(tmp_path)
    journal = Journal(empty_postgres.address)
    try:
        store = KeyStore(journal.transaction)
        store.add(row_of("one", seal(old.public, b"one"), old.id))
        store.put(row_of("one", "", old.id)._replace(expires_ms=10**12, warned_days=7))
        keys_host.arm(settings, "rich", "rich", "test")
        gate = gate_of(tmp_path, store)
        gate.learn(settings_of("live"))
        assert "no address of the real exchange" in gate.refusal("rich", "main")
        assert keys_host.reseal(settings)["disarmed"] == ["rich"]
        (row,) = store.rows("taken")
        assert (keep_pair(tmp_path).open(row.sealed), row.expires_ms, row.warned_days) == (b"one", 10**12, 7)
        assert store.known_order("main") == ""
        assert keys_host.listed(settings)[0]["expires_ms"] == 10**12
    finally:
        journal.close()
