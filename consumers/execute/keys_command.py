"""The verbs `keys ...`, `arm` and `disarm` as the command line calls them: what is asked, said and ended with.

Each gives an outcome of figures and an exit code: 1 where a key is not in use or was not armed. No key is ever said.
"""

import getpass
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from consumers.execute import keys_host, keys_verbs
from consumers.execute.halts_verbs import Outcome
from consumers.execute.keys_verbs import Place, Told
from infra.errors import BadSettings, Stop
from infra.log import Log
from infra.secrets_process import shut_off
from infra.servers.broker import open_log
from infra.settings import Settings

Language = Literal["en", "ko"]
_ASKED = {
    "en": "Type the account's name to arm it for real money: ",
    "ko": "실거래를 허용하려면 계정 이름을 입력하세요: ",
}


class KeyVerbs:
    """All verbs on one deployment; `ask` prompts without echo, `opened` opens its log."""

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None],
        language: Language = "en",
        *,
        ask: Callable[[str], str] | None = None,
        opened: Callable[[], AbstractContextManager[Log]] | None = None,
    ) -> None:
        self._settings = settings
        self._say = say
        self._language = language
        self._ask = ask or (lambda name: getpass.getpass(f"{name}: "))
        self._opened = opened or (lambda: open_log(settings))
        self._by = f"{getpass.getuser()} (command line)"

    # --- keys

    def add(
        self, account: str, pocket: str, key: str, source: str | None, public_file: Path | None, wait_s: float
    ) -> Outcome:
        """Deposit a first key."""
        return self._deposit(account, pocket, key, source, public_file, wait_s, is_first=True)

    def rotate(
        self, account: str, pocket: str, key: str, source: str | None, public_file: Path | None, wait_s: float
    ) -> Outcome:
        """Deposit a key that takes the place of the one in use once it is checked."""
        return self._deposit(account, pocket, key, source, public_file, wait_s, is_first=False)

    def _deposit(
        self,
        account: str,
        pocket: str,
        key: str,
        source: str | None,
        public_file: Path | None,
        wait_s: float,
        *,
        is_first: bool,
    ) -> Outcome:
        shut_off()  # from here on this process holds a key
        with self._opened() as log:
            place = self._place(log, account, pocket, key or time.strftime("key-%Y%m%d-%H%M%S", time.gmtime()))
            self._check_order(place, is_first=is_first)
            found = keys_verbs.read_key(source, self._ask, sys.stdin.read)
            told = keys_verbs.deposit(
                log, self._settings.home, place, found, public_file=public_file, by=self._by, wait_s=wait_s
            )
        return self._told(told, {"taken"})

    def _check_order(self, place: Place, *, is_first: bool) -> None:
        """Say early what is meant for the other verb; where the database is not at hand, nothing is said."""
        try:
            rows = keys_host.listed(self._settings)
        except Stop:
            return
        held = [row for row in rows if row["pocket"] == place.pocket and row["state"] in {"taken", "blocked"}]
        if is_first and held:
            name = held[-1]["key"]
            raise BadSettings(f"{place.pocket} has the key {name} already: `observator keys rotate` replaces it")
        if any(row["key"] == place.key_id for row in held):
            raise BadSettings(f"{place.pocket} has a key named {place.key_id} already: give the new one another --key")

    def remove(self, account: str, pocket: str, key: str, wait_s: float) -> Outcome:
        """Have a key erased."""
        with self._opened() as log:
            place = self._place(log, account, pocket, key)
            return self._told(keys_verbs.remove(log, place, by=self._by, wait_s=wait_s), {"removed"})

    def check(self, account: str, pocket: str, wait_s: float) -> Outcome:
        """Have the exchange asked about the key in use."""
        with self._opened() as log:
            place = self._place(log, account, pocket, "")
            told = keys_verbs.check(log, place, by=self._by, wait_s=wait_s)
        return self._told(told, {"taken"})

    def list_keys(self, account: str) -> list[dict[str, Any]]:
        """Every key, or those of one account."""
        rows = keys_host.listed(self._settings, self._language)
        return [row for row in rows if not account or row["account"] == account]

    def reseal(self) -> Outcome:
        """Seal every kept key for a new key pair."""
        shut_off()
        found = keys_host.reseal(self._settings)
        self._say(
            f"{found['keys']} keys are sealed for the new public key {found['public_key_id']}."
            if self._language == "en"
            else f"키 {found['keys']}개를 새 공개키 {found['public_key_id']}로 다시 봉인했습니다."
        )
        for account in found["disarmed"]:
            self._say(
                f"{account} is not armed any more: arm it again."
                if self._language == "en"
                else f"{account} 계정의 실거래 허용이 해제되었습니다. 다시 허용해 주세요."
            )
        return Outcome(found, 0)

    # --- real money

    def arm(self, account: str, read_line: Callable[[str], str]) -> Outcome:
        """Arm an account: its name must be typed."""
        shut_off()
        found = keys_host.arm(self._settings, account, read_line(_ASKED[self._language]).strip(), self._by)
        words = {
            "en": f"{account} is armed. Real money also needs `execute.allow_live` and a checked key; this build has no"
            " address of the real exchange.",
            "ko": f"{account} 계정을 허용했습니다. 실거래에는 `execute.allow_live` 설정과 확인된 키도 필요하며,"
            " 이 버전에는 실제 거래소 주소가 없습니다.",
        }
        self._say(words[self._language])
        return Outcome(found, 0 if found["is_armed"] else 1)

    def disarm(self, account: str) -> Outcome:
        """Take it back."""
        found = keys_host.disarm(self._settings, account)
        words = {"en": f"{account} is not armed.", "ko": f"{account} 계정은 허용되어 있지 않습니다."}
        self._say(words[self._language])
        return Outcome(found, 0)

    def _place(self, log: Log, account: str, pocket: str, key: str) -> Place:
        return Place(account, pocket or keys_verbs.pocket_of(log, account), key)

    def _told(self, told: Told, good: set[str]) -> Outcome:
        row = told.row(self._language)
        self._say(row["text"])
        return Outcome(row, 0 if told.state in good and not told.reason else 1)
