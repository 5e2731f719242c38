"""What the verbs `keys ...` do: seal a key in this very process, put the box into `commands`, wait for the answer.

Called by the command line. A key comes from a prompt without echo, a file or the standard input, never from an
argument; it is sealed at once and never shown. What needs the executor's own files stands in `keys_host`.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from consumers.execute.keys_content import sealed_for
from consumers.execute.keys_words import sentence
from infra.errors import BadSettings
from infra.log import Log, Record, publish_one, slots_of
from infra.secrets import Secret, masked
from infra.secrets_box import PUBLIC, box_id, id_of, read_public
from streams import topics
from streams.messages import AccountSettings, Command, KeyCheckRequested, KeyDeposited, KeyRemoved, KeyTold, encode

ANSWERS = frozenset({"taken", "refused", "blocked", "removed"})
"""States that end the waiting for an answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose key it is."""

    account: str
    pocket: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Told:
    """What came back; `state` is `unanswered` where nothing did in time."""

    place: Place
    state: str
    reason: str = ""
    access_key: str = ""
    expires_ms: int | None = None

    def row(self, language: Literal["en", "ko"] = "en") -> dict[str, Any]:
        """For people and programs; nothing of the key but its masked name."""
        return {
            "account": self.place.account,
            "pocket": self.place.pocket,
            "key": self.place.key_id,
            "state": self.state,
            "reason": self.reason,
            "text": sentence(self.place.key_id, self.state, self.reason, language),
            "access_key": self.access_key,
            "expires_ms": self.expires_ms,
        }


# --- reading a key ------------------------------------------------------------------------------------------------


def read_key(source: str | None, prompt: Callable[[str], str], read_stdin: Callable[[], str]) -> tuple[str, Secret]:
    """Access and secret key from a prompt, a file, or (`-`) the standard input; raises `BadSettings`."""
    if source is None:
        return prompt("Access key").strip(), Secret(prompt("Secret key").strip())
    try:
        text = read_stdin() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"the key cannot be read from {source} ({type(error).__name__})") from None
    found = _parts_of(text)
    if len(found) != 2:
        raise BadSettings(
            'a key is given as two lines, access key and secret key, or as {"access_key": ..., "secret_key": ...}'
        )
    return found[0], Secret(found[1])


def _parts_of(text: str) -> list[str]:
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return []
        parts = [found.get("access_key"), found.get("secret_key")]
        return [part.strip() for part in parts if isinstance(part, str)]
    return [line.strip() for line in text.splitlines() if line.strip()]


# --- the verbs ----------------------------------------------------------------------------------------------------


def deposit(
    log: Log, home: Path, place: Place, key: tuple[str, Secret], *, public_file: Path | None, by: str, wait_s: float
) -> Told:
    """Seal a key for the executor and hand it over; waits for its word."""
    public = read_public(public_file or home / PUBLIC)
    try:
        sealed = sealed_for(public, place.account, place.pocket, place.key_id, *key)
    except ValueError as error:
        raise BadSettings(f"this is no key: {error}") from None
    message = KeyDeposited(
        account=place.account,
        pocket=place.pocket,
        key_id=place.key_id,
        sealed=sealed,
        public_key_id=id_of(public),
        event_ms=_now_ms(),
        by=by,
    )
    name = box_id(sealed)
    told = _ask(log, message, place, lambda one: one.box_id == name, wait_s)
    return told if told.access_key else Told(place, told.state, told.reason, masked(key[0]), told.expires_ms)


def remove(log: Log, place: Place, *, by: str, wait_s: float) -> Told:
    """Have a key erased; waits for the executor's word."""
    message = KeyRemoved(account=place.account, pocket=place.pocket, key_id=place.key_id, event_ms=_now_ms(), by=by)
    return _ask(log, message, place, lambda one: one.key_id == place.key_id and one.state == "removed", wait_s)


def check(log: Log, place: Place, *, by: str, wait_s: float) -> Told:
    """Have the exchange asked once more what a key is good for; waits for the answer."""
    message = KeyCheckRequested(account=place.account, pocket=place.pocket, event_ms=_now_ms(), by=by)
    return _ask(log, message, place, lambda one: not place.key_id or one.key_id == place.key_id, wait_s)


def pocket_of(log: Log, account: str) -> str:
    """The pocket of an account by its newest settings; raises `BadSettings`."""
    found = ""
    bounds = log.bounds(slots_of(log, ["controls"]))
    reader = log.reader({slot: first for slot, (first, _) in bounds.items()})
    try:
        while any(reader.position(slot) < end for slot, (_, end) in bounds.items()):
            for record in reader.read(500, 0.5):
                message = _decoded(record)
                if isinstance(message, AccountSettings) and message.account == account:
                    found = message.pocket
    finally:
        reader.close()
    if not found:
        raise BadSettings(f"there is no account {account!r} yet: name its pocket with --pocket")
    return found


def _ask(log: Log, message: Command, place: Place, is_it: Callable[[KeyTold], bool], wait_s: float) -> Told:
    """Publish a command and wait for what the executor tells of this pocket."""
    bounds = log.bounds(slots_of(log, ["order-events"]))
    reader = log.reader({slot: end for slot, (_, end) in bounds.items()})
    try:
        publish_one(log, "commands", message.account, encode(message))
        end_s = time.monotonic() + wait_s
        newest = Told(place, "unanswered")
        while time.monotonic() < end_s:
            for record in reader.read(500, 0.2):
                told = _decoded(record)
                if isinstance(told, KeyTold) and (told.account, told.pocket) == (place.account, place.pocket):
                    newest = _taken_in(newest, told) if is_it(told) else newest
            if newest.state in ANSWERS:
                break
        return newest
    finally:
        reader.close()


def _taken_in(newest: Told, told: KeyTold) -> Told:
    if told.state == "expiring":
        return newest
    place = Place(told.account, told.pocket, told.key_id)
    return Told(place, told.state, told.reason, told.access_key, told.expires_ms)


def _decoded(record: Record) -> Any:
    try:
        return topics.decode(record.topic, record.value)
    except msgspec.DecodeError:
        return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
