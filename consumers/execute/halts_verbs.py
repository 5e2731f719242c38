"""The verbs `halt` and `resume`: write into the run folder first, then wait for the executor's answer.

Called by the command line, for the API too. Kafka is needed for neither; where no executor runs, the stages are told
from here.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from consumers.execute.halts_file import ALL_ACCOUNTS, DamagedFile, HaltFolder, Standing
from consumers.execute.halts_words import Language, how_far, who, words
from infra.errors import BadSettings, ObservatorError
from infra.log import publish_one
from infra.servers.broker import bootstrap_of, listens, open_log
from infra.settings import Settings
from streams.messages import Halt, encode

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
SETTLED, UNSETTLED, NO_EXECUTOR = 0, 3, 4
"""Exit codes: all is done; the gate is closed and the rest takes longer; it is written and nobody reads it yet."""
ANSWER_S = 10.0
LOOK_EVERY_S = 0.002
PROGRESS_S = 1.0
LOG_S = 3.0
BY = "command line"


class Outcome(NamedTuple):
    """What became of a verb: figures for `--json`, and the exit code."""

    figures: dict[str, Any]
    code: int


class Verbs:
    """Both verbs on one run folder."""

    def __init__(self, settings: Settings, say: Say, language: Language = "en", by: str = BY) -> None:
        self._settings = settings
        self._folder = HaltFolder(settings.home)
        self._say = say
        self._language: Language = language
        self._by = by

    def halt(self, account: str, kind: Literal["no-new-orders", "sell-all"], timeout_s: float) -> Outcome:
        """Close the gate of an account, or of all (`*`), and wait until it has come to rest."""
        name = who(account, self._language)
        began_s = time.monotonic()
        halt = self._folder.order(Halt(account=account, kind=kind, event_ms=self._later_than(account), by=self._by))
        self._tell("written", who=name, kind=kind)
        figures: dict[str, Any] = {"account": account, "kind": kind, "event_ms": halt.event_ms, "state": "written"}
        standing = self._wait(lambda: self._answered(halt), ANSWER_S)
        if standing is None:
            return self._unread(halt, figures)
        figures |= {"state": "closed", "closed_ms": _since_ms(began_s)}
        self._tell("closed", ms=figures["closed_ms"])
        is_settled = self._settle(halt, began_s + timeout_s)
        standing = self._answered(halt) or standing
        figures |= how_much(standing)
        if not standing.is_known:
            self._tell("unknown", who=name)
        if not is_settled:
            if not self._folder.is_answered():
                return self._unread(halt, figures)
            self._tell("unsettled", seconds=f"{timeout_s:g}")
            return Outcome(figures, UNSETTLED)
        figures |= {"state": "settled", "settled_ms": _since_ms(began_s)}
        is_sold = kind == "sell-all" and not standing.text
        self._tell("sold" if is_sold else "settled", seconds=f"{figures['settled_ms'] / 1000:.1f}")
        if standing.text:
            self._say(standing.text)
        return Outcome(figures, SETTLED)

    def resume(self, account: str, *, has_looked: bool, ask: Callable[[str], str] | None) -> Outcome:
        """Lift a halt, after a person typed the account's name (`ask`) or said that they looked."""
        name = who(account, self._language)
        halts = self._halts()
        figures: dict[str, Any] = {"account": account, "state": "not-halted", "still": []}
        current = halts.get(account)
        if current is None:
            self._tell("not-halted", who=name)
        else:
            self._say_what_is_open(account)
            self._ask(account, has_looked=has_looked, ask=ask)
            event_ms = self._later_than(account)
            lifted = self._folder.order(Halt(account=account, kind="lifted", event_ms=event_ms, by=self._by))
            is_read = self._wait(lambda: self._answered(lifted), ANSWER_S) is not None
            figures |= {"state": "lifted" if is_read else "written", "event_ms": lifted.event_ms}
            self._tell("lifted" if is_read else "lifted-later", who=name)
            if not is_read:
                self._publish(lifted)
        still = {key: halt.kind for key, halt in self._halts().items() if key != account}
        for key, kind in sorted(still.items()):
            self._tell("still", who=who(key, self._language), kind=kind)
        return Outcome(figures | {"still": still}, NO_EXECUTOR if figures["state"] == "written" else SETTLED)

    def standings(self) -> dict[str, Any]:
        """What is halted now and how far each halt is; `damage` says why the file of commands cannot be read."""
        is_answered, damage = self._folder.is_answered(), ""
        try:
            self._folder.commands()
        except DamagedFile as error:
            damage = str(error)
        rows = []
        for account, halt in sorted(self._halts().items()):
            standing = self._answered(halt) if is_answered else None
            state = "written" if standing is None else "settled" if standing.is_settled else "closed"
            row = {"account": account, "kind": halt.kind, "event_ms": halt.event_ms, "by": halt.by, "state": state}
            rows.append(row | (how_much(standing) if standing is not None else {}))
        return {"executor_runs": is_answered, "damage": damage, "halts": rows}

    # --- parts

    def _ask(self, account: str, *, has_looked: bool, ask: Callable[[str], str] | None) -> None:
        if has_looked:
            return
        if ask is None:
            raise BadSettings(words("deliberate", self._language))
        word = "all" if account == ALL_ACCOUNTS else account
        typed = ask(words("type", self._language, word=word, who=who(account, self._language)))
        if typed.strip() != word:
            raise BadSettings(words("mistyped", self._language, word=word))

    def _say_what_is_open(self, account: str) -> None:
        answer = self._folder.answer()
        standing = None if answer is None else answer.standings.get(account)
        if standing is not None and (not standing.is_settled or standing.text):
            self._say(how_far("open", standing, self._language))

    def _halts(self) -> dict[str, Halt]:
        """What holds now, by what was ordered here and what the executor says, whichever is newer."""
        answer = self._folder.answer()
        found = {} if answer is None else {key: one.halt for key, one in answer.standings.items()}
        try:
            commands = [command.halt for command in self._folder.commands()]
        except DamagedFile:
            commands = []
        for halt in commands:
            if (known := found.get(halt.account)) is None or halt.event_ms > known.event_ms:
                found[halt.account] = halt
        return {key: halt for key, halt in found.items() if halt.kind != "lifted"}

    def _later_than(self, account: str) -> int:
        """Now, or later where what holds says that it is from later (another machine's clock)."""
        answer = self._folder.answer()
        standing = None if answer is None else answer.standings.get(account)
        return max(time.time_ns() // 1_000_000, standing.halt.event_ms + 1 if standing is not None else 0)

    def _answered(self, halt: Halt) -> Standing | None:
        """The executor's word on this halt, or on one that came after it."""
        answer = self._folder.answer()
        standing = None if answer is None else answer.standings.get(halt.account)
        return standing if standing is not None and standing.halt.event_ms >= halt.event_ms else None

    def _wait(self, look: Callable[[], Standing | None], timeout_s: float) -> Standing | None:
        """Look until there is something, or nobody who could answer, or it takes too long."""
        end_s = time.monotonic() + timeout_s
        while (found := look()) is None and time.monotonic() < end_s and self._folder.is_answered():
            time.sleep(LOOK_EVERY_S)
        return found

    def _settle(self, halt: Halt, end_s: float) -> bool:
        """Wait until it is settled, with a line a second; False where that takes too long or the executor ends."""
        said_s = time.monotonic()
        while (standing := self._answered(halt)) is not None and not standing.is_settled:
            now_s = time.monotonic()
            if now_s >= end_s or not self._folder.is_answered():
                return False
            if now_s - said_s >= PROGRESS_S:
                said_s = now_s
                self._say(how_far("progress", standing, self._language))
            time.sleep(LOOK_EVERY_S * 5)
        return standing is not None

    def _unread(self, halt: Halt, figures: dict[str, Any]) -> Outcome:
        """Told from here: another host's executor may be the one that sends, and reads it from the log."""
        is_answered = self._folder.is_answered()
        self._tell("unanswered" if is_answered else "no-executor", seconds=f"{ANSWER_S:g}")
        figures["told"] = self._publish(halt)
        return Outcome(figures, UNSETTLED if is_answered else NO_EXECUTOR)

    def _publish(self, halt: Halt) -> bool:
        """Tell the other stages, because no executor does; whether Kafka took it."""
        if not listens(bootstrap_of(self._settings)):
            self._tell("log-away")
            return False
        try:
            with open_log(self._settings) as log:
                publish_one(log, "controls", halt.account, encode(halt), LOG_S)
        except ObservatorError as error:
            logger.info("the log does not take the halt: %s", error)
            self._tell("log-away")
            return False
        self._folder.mark_told([halt])
        self._tell("log-told")
        return True

    def _tell(self, name: str, **values: object) -> None:
        self._say(words(name, self._language, **values))


def how_much(standing: Standing) -> dict[str, Any]:
    """What is left to be done, as figures."""
    return {name: getattr(standing, name) for name in ("in_flight", "open_orders", "unsold", "text")}


def ask_at_terminal(text: str) -> str:
    """A line that a person types."""
    return input(f"{text}: ")


def asker() -> Callable[[str], str] | None:
    """How to ask, where somebody sits at the other end."""
    return ask_at_terminal if sys.stdin.isatty() else None


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)
