"""The verbs `keys ...`, `arm` and `disarm` against a running executor; no key in anything they say or leave."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumers.execute.keyring import HeldKeys
from consumers.execute.keys_command import KeyVerbs
from consumers.execute.keys_verbs import read_key
from infra.errors import BadSettings
from infra.memory_log import MemoryLog
from infra.secrets_box import PUBLIC
from infra.settings import Settings
from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread

from .test_executor import Running, until
from .test_keys_executor import start  # noqa: F401 - a fixture
from .test_keys_live import settings_of

TRADING = ["view_account", "view_orders", "make_orders"]
WAIT_S = 15.0


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    home = tmp_path_factory.mktemp("sandbox")
    with SandboxThread(home, kind="synthetic", plan=Plan(markets=("KRW-BTC",)), warmup_seconds=0) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def _stays_dumpable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs shut their process off for good; here that process is the tests' own."""
    monkeypatch.setattr("consumers.execute.keys_command.shut_off", lambda: True)


class Desk:
    """Somebody at the command line."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.home = running.options.home
        self.said: list[str] = []
        self.secrets: list[str] = []

    def verbs(self, *typed: str, language: str = "en", log: MemoryLog | None = None) -> KeyVerbs:
        answers = iter(typed)
        return KeyVerbs(
            Settings(home=self.home),
            self.said.append,
            language,
            ask=lambda _: next(answers),
            opened=lambda: contextlib.nullcontext(log or self.running.log),
        )

    def key(self, **values: object) -> tuple[str, str]:
        wanted = {"account": self.running.sandbox.access_key, "permissions": TRADING, **values}
        made = self.running.sandbox.control("POST", "/sandbox/keys", wanted)
        self.secrets += [made["access_key"], made["secret_key"]]
        return made["access_key"], made["secret_key"]

    def check_nothing_shown(self, *texts: object) -> None:
        for text in (*self.said, *map(repr, texts)):
            assert not [secret for secret in self.secrets if secret in text]


@pytest.fixture
def desk(start: Callable[..., Running]) -> Desk:  # noqa: F811 - the fixture
    return Desk(start(keys=HeldKeys({})))


def test_a_key_from_its_first_day_to_its_last(desk: Desk) -> None:
    added = desk.verbs(*desk.key()).add("paper", "paper-main", "first", None, None, WAIT_S)
    assert (added.code, added.figures["state"]) == (0, "taken")
    assert desk.said == ["The key first is in use."]
    assert desk.verbs().check("paper", "paper-main", WAIT_S).code == 0
    with pytest.raises(BadSettings, match="observator keys rotate"):
        desk.verbs(*desk.key()).add("paper", "paper-main", "second", None, None, WAIT_S)
    with pytest.raises(BadSettings, match="another --key"):
        desk.verbs(*desk.key()).rotate("paper", "paper-main", "first", None, None, WAIT_S)
    rotated = desk.verbs(*desk.key(), language="ko").rotate("paper", "paper-main", "second", None, None, WAIT_S)
    assert (rotated.code, desk.said[-1]) == (0, "키 second: 사용 중입니다.")
    rows = desk.verbs().list_keys("")
    assert {row["key"]: row["state"] for row in rows} == {"first": "replaced", "second": "taken"}
    assert desk.verbs().list_keys("another") == []
    resealed = desk.verbs().reseal()
    assert resealed.figures["keys"] == 1
    assert desk.verbs().check("paper", "paper-main", WAIT_S).code == 0, "the box for the new pair is found"
    removed = desk.verbs().remove("paper", "paper-main", "second", WAIT_S)
    assert (removed.code, removed.figures["state"]) == (0, "removed")
    desk.check_nothing_shown(added, rotated, rows, resealed, removed)


def test_a_bad_key_ends_with_code_1_and_says_why(desk: Desk) -> None:
    found = desk.verbs(*desk.key(permissions=[*TRADING, "withdraw"])).add(
        "paper", "paper-main", "bad", None, None, WAIT_S
    )
    assert (found.code, found.figures["reason"]) == (1, "may-withdraw")
    assert "may withdraw money" in desk.said[-1]
    wrong = desk.verbs(desk.key()[0], "x" * 40).add("paper", "paper-main", "wrong", None, None, WAIT_S)
    assert (wrong.code, wrong.figures["reason"]) == (1, "wrong-key")
    desk.check_nothing_shown(found, wrong)


def test_an_executor_that_is_away_takes_the_key_when_it_comes(desk: Desk) -> None:
    desk.running.end()
    added = desk.verbs(*desk.key()).add("paper", "paper-main", "first", None, None, 0.5)
    assert (added.code, added.figures["state"]) == (1, "unanswered")
    assert added.figures["access_key"].endswith(desk.secrets[0][-2:])
    desk.running.start()
    until(lambda: [row["state"] for row in desk.verbs().list_keys("paper")] == ["taken"])
    desk.check_nothing_shown(added)


def test_the_pocket_comes_from_the_accounts_settings(desk: Desk) -> None:
    with pytest.raises(BadSettings, match="--pocket"):
        desk.verbs(*desk.key()).add("rich", "", "first", None, None, WAIT_S)
    desk.running.publish(settings_of("paper"), "controls")
    added = desk.verbs(*desk.key()).add("rich", "", "", None, None, WAIT_S)
    assert (added.code, added.figures["pocket"]) == (0, "main")
    assert added.figures["key"].startswith("key-2")


def test_the_public_key_may_come_from_another_place(desk: Desk, tmp_path: Path) -> None:
    away = tmp_path / "copied.json"
    (desk.home / PUBLIC).rename(away)
    with pytest.raises(BadSettings, match="copy the file from its host"):
        desk.verbs(*desk.key()).add("paper", "paper-main", "first", None, None, WAIT_S)
    assert desk.verbs(*desk.key()).add("paper", "paper-main", "first", None, away, WAIT_S).code == 0


def test_arming_asks_for_the_name(desk: Desk) -> None:
    with pytest.raises(BadSettings, match="nothing was armed"):
        desk.verbs().arm("paper", lambda _: "y\n")
    assert desk.verbs().arm("paper", lambda _: "paper\n").figures["is_armed"]
    assert desk.verbs().disarm("paper").figures == {"account": "paper", "was_armed": True, "is_armed": False}


@pytest.mark.parametrize(
    "text", ["access\nsecret\n", ' {"access_key": "access", "secret_key": "secret"}', "\naccess\n\nsecret"]
)
def test_a_key_is_read_from_a_file_or_the_standard_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    for source in (str(tmp_path / "key"), "-"):
        access_key, secret_key = read_key(source, lambda _: "", io.StringIO(text).read)
        assert (access_key, secret_key.reveal()) == ("access", "secret")


@pytest.mark.parametrize(
    "text", ["", "one-line", "a\nb\nc", '{"access_key": "a"}', "{broken", '{"access_key": 1, "secret_key": 2}']
)
def test_what_is_no_key_is_not_shown_either(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(BadSettings) as found:
        read_key(str(tmp_path / "key"), lambda _: "", str)
    assert "two lines" in str(found.value)
    assert not text or text not in str(found.value)
    with pytest.raises(BadSettings, match="FileNotFoundError"):
        read_key(str(tmp_path / "nothing"), lambda _: "", str)


def test_a_key_with_a_blank_in_it_is_refused_unsealed(desk: Desk) -> None:
    with pytest.raises(BadSettings, match="this is no key") as found:
        desk.verbs("Ab3d Ef6h", "secret").add("paper", "paper-main", "first", None, None, WAIT_S)
    assert "Ab3d" not in str(found.value)
