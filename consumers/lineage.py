"""`observator explain`: the chain from an order back to the raw records, with the coordinates of every link.

Order events, intent, cause (signal, entry or a person's request), model, feature row, books and trades of its bin, and
the run manifests in force. Reads the log, the executor's journal where it is on this machine, and model files; writes
nothing. `lineage_words` says the same in words for people.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from consumers.lineage_journal import OrderJournal
from consumers.lineage_past import FIRST_BACK_MS, FURTHER, SLACK_MS, Found, Past
from infra.errors import Stop
from infra.log import Log
from models.forecast.artefact import ModelRefused, read
from models.forecast.registry import find
from streams.messages import (
    Features,
    Halt,
    Heartbeat,
    Message,
    OrderBook,
    OrderIntent,
    OrderRequested,
    RequestChanged,
    RunManifest,
    Signal,
    Trade,
    hash_of,
    key_of,
)

IDENTIFIER = re.compile(r"^.+-([a-z2-7]{26})-\d+$")
CHAINS = 2
"""An exit's chain goes on to the entry that it closes, and no further."""


class OrderUnheard(Stop):
    """Neither the log nor the journal knows what was asked for."""


class Chain(NamedTuple):
    """One order's links, each a plain object with its coordinates; `missing` says what could not be found and why."""

    links: dict[str, Any]
    missing: list[dict[str, str]]


class Way(NamedTuple):
    """A chain while it is followed: its links, when each process had its part in it, and what is missing."""

    links: dict[str, Any]
    moments: dict[str, int]
    missing: list[dict[str, str]]


class Lineage:
    """Answers for one log and one run folder."""

    def __init__(self, log: Log, home: Path, database: str = "") -> None:
        self._past = Past(log)
        self._home = home
        self._journal = OrderJournal(home, database)

    def explain(self, asked: str) -> dict[str, Any]:
        """The chain of what was asked for: an intent's id, an identifier, an order's or a fill's id at the exchange.

        Raises `OrderUnheard`.
        """
        intent_id = self._intent_id(asked)
        chain = self._chain(intent_id, CHAINS)
        if not chain.links["events"] and chain.links["intent"] is None and chain.links["journal"] is None:
            raise OrderUnheard(
                f"there is no order {asked!r} in the log or in the journal of {self._home}: give an intent id, an"
                " identifier, or the order's id at the exchange, and the run folder with --home"
            )
        return {"asked": asked, "intent_id": intent_id, **chain.links, "missing": chain.missing}

    def _intent_id(self, asked: str) -> str:
        if known := self._journal.intent_of(asked):
            return known
        if (found := IDENTIFIER.match(asked)) is not None:
            return found[1]
        fields = ("uuid", "fill_id", "identifier")
        event = self._past.everywhere("order-events", lambda m: any(getattr(m, name, "") == asked for name in fields))
        return str(event.message.intent_id) if event is not None else asked

    # --- one order ------------------------------------------------------------------------------------------------

    def _chain(self, intent_id: str, left: int) -> Chain:
        missing: list[dict[str, str]] = []
        place, intent = self._intent(intent_id, missing)
        events = self._events(intent_id, intent, place)
        links: dict[str, Any] = {
            "events": [_told(event) for event in events],
            "journal": self._journal.told(intent_id),
            "intent": None if intent is None else {**place, "record": msgspec.to_builtins(intent)},
            "signal": None, "model": None, "features": None, "raw": None, "request": None,
            "request_changes": [], "halt": None, "entry": None,
        }  # fmt: skip
        moments: dict[str, int] = {"execute": events[0].record.append_ms} if events else {}
        if intent is not None:
            moments["trade"] = int(place.get("append_ms", 0))
            self._cause(intent, moments["trade"], Way(links, moments, missing), left)
        links["manifests"] = self._manifests(moments, missing)
        return Chain(links, missing)

    def _intent(self, intent_id: str, missing: list[dict[str, str]]) -> tuple[dict[str, Any], OrderIntent | None]:
        """The decision and where it stands; a person's own order stands in the journal only."""
        found = self._past.everywhere("order-intents", lambda m: isinstance(m, OrderIntent) and m.id == intent_id)
        if found is not None:
            return found.place, found.message
        intent, told = self._journal.intent(intent_id), self._journal.told(intent_id)
        if intent is not None and told is not None:
            if told["topic"] == "order-intents":
                self._miss(missing, "intent", "order-intents")
            return {name: told[name] for name in ("topic", "partition", "offset", "append_ms")}, intent
        self._miss(missing, "intent", "order-intents")
        return {}, None

    def _events(self, intent_id: str, intent: OrderIntent | None, place: dict[str, Any]) -> list[Found]:
        """What was told of it, each event once: an event may be published again after a crash."""
        from_ms = int(place.get("append_ms", 0)) - FIRST_BACK_MS
        slots = self._past.slots("order-events") if intent is None else [self._past.slot("order-events", intent.pocket)]
        unique: dict[Message, Found] = {}
        for slot in slots:
            for found in self._past.scan(slot, from_ms):
                if getattr(found.message, "intent_id", "") == intent_id:
                    unique.setdefault(found.message, found)
        return list(unique.values())

    # --- its cause ------------------------------------------------------------------------------------------------

    def _cause(self, intent: OrderIntent, before_ms: int, way: Way, left: int) -> None:
        base = intent.cause_id.partition("/")[0]
        if intent.cause_kind in {"signal", "expectation"}:
            self._from_signal(intent, base, before_ms, way)
            if intent.purpose != "entry" and left > 1:
                self._close_of(self._opened_by(intent), way, left)
        elif intent.cause_kind == "request":
            self._from_request(intent, base, way)
        elif intent.cause_kind == "halt" and "|" in base:
            self._from_halt(base, way)
        elif left > 1:
            self._close_of(base, way, left)

    def _close_of(self, entry_id: str, way: Way, left: int) -> None:
        """The chain of the entry whose position is closed."""
        entry = self._chain(entry_id, left - 1)
        if entry.links["intent"] is None:
            self._miss(way.missing, "entry", "order-intents")
        else:
            way.links["entry"] = {"intent_id": entry_id, **entry.links, "missing": entry.missing}

    def _opened_by(self, intent: OrderIntent) -> str:
        """The last entry before an exit that a forecast caused: there is none while a position is open."""
        opened = ""
        for found in self._past.scan(self._past.slot("order-intents", intent.pocket)):
            message = found.message
            if message == intent:
                break
            if isinstance(message, OrderIntent) and message.purpose == "entry" and _ledger(message) == _ledger(intent):
                opened = message.id
        return opened

    def _from_request(self, intent: OrderIntent, request_id: str, way: Way) -> None:
        """What a person asked for, and what was changed of it since."""
        told = [
            found
            for found in self._past.scan(self._past.slot("order-requests", intent.pocket))
            if _request_of(found.message) == request_id
        ]
        way.links["request"] = _told(told[0]) if told else None
        way.links["request_changes"] = [_told(found) for found in told[1:]]
        if not told or not isinstance(told[0].message, OrderRequested):
            self._miss(way.missing, "request", "order-requests")

    def _from_halt(self, cause: str, way: Way) -> None:
        """The kill switch by which the executor sold by itself (`account|event_ms`); a file may bring it."""
        account, _, event_ms = cause.rpartition("|")
        wanted = (account, event_ms)
        for slot in self._past.slots("controls"):
            for found in self._past.scan(slot):
                message = found.message
                if isinstance(message, Halt) and (message.account, str(message.event_ms)) == wanted:
                    way.links["halt"] = _told(found)
                    return
        self._miss(way.missing, "halt", "controls")

    def _from_signal(self, intent: OrderIntent, signal_id: str, before_ms: int, way: Way) -> None:
        links, moments, missing = way.links, way.moments, way.missing
        slot = self._past.slot("signals", key_of(intent.exchange, intent.market))
        found = self._past.nearest(slot, before_ms, lambda m: isinstance(m, Signal) and m.id == signal_id)
        if found is None:
            self._miss(missing, "signal", "signals")
            return
        signal: Signal = found.message
        links["signal"], moments["predict"] = _told(found), found.record.append_ms
        links["model"] = self._model(signal, missing)
        key = key_of(signal.exchange, signal.market)
        row = self._past.nearest(
            self._past.slot("features", key),
            found.record.append_ms,
            lambda m: (
                isinstance(m, Features)
                and (m.exchange, m.market, m.bin_ms) == (signal.exchange, signal.market, signal.bin_ms)
            ),
        )
        if row is None:
            self._miss(missing, "features", "features")
            return
        links["features"] = {**_told(row), "hash": hash_of(row.message).hex()}
        moments["streams"] = row.record.append_ms
        links["raw"] = {topic: self._raw(topic, key, row, missing) for topic in ("orderbooks", "trades")}
        appended = [part["last"]["append_ms"] for part in links["raw"].values() if part["last"] is not None]
        if appended:
            moments["feed"] = min(appended)

    def _model(self, signal: Signal, missing: list[dict[str, str]]) -> dict[str, Any] | None:
        try:
            file = find(signal.model_id, self._home)
            payload = read(file).payload
        except ModelRefused as error:
            missing.append({"link": "model", "reason": "refused", "text": str(error)})
            return None
        score = next((one for one in payload.card.scores if one.horizon_ms == signal.horizon_ms), None)
        return {
            "id": signal.model_id, "name": payload.name, "file": str(file), "trained_on": payload.trained_on,
            "schema": payload.schema, "window_rows": payload.window_rows, "inputs": payload.inputs,
            "card": msgspec.to_builtins(payload.card), "score": msgspec.to_builtins(score),
        }  # fmt: skip

    def _raw(self, topic: str, key: str, row: Found, missing: list[dict[str, str]]) -> dict[str, Any]:
        """The records of the row's bin, up to the heartbeat of their source that closed it."""
        features: Features = row.message
        slot, back_ms, before_ms = self._past.slot(topic, key), FIRST_BACK_MS, row.record.append_ms
        while True:
            taken, closed, is_whole = self._bin(slot, features, max(before_ms - back_ms, 0), before_ms + SLACK_MS)
            if is_whole or back_ms > before_ms:
                break
            back_ms *= FURTHER
        counted = features.n_books if topic == "orderbooks" else features.n_trades
        if len(taken) < counted or closed is None:
            self._miss(missing, topic, topic)
        return {
            "topic": topic,
            "partition": slot.partition,
            "offsets": [found.record.offset for found in taken],
            "first": taken[0].place if taken else None,
            "last": taken[-1].place if taken else None,
            "closed_by": closed.place if closed is not None else None,
            "counted_in_the_row": counted,
        }

    def _bin(self, slot: Any, features: Features, from_ms: int, to_ms: int) -> tuple[list[Found], Found | None, bool]:
        """The bin's data, its closing heartbeat, and whether reading began before the bin did."""
        begin_ms, owner = features.bin_ms - features.grid_ms, (features.source, features.session)
        taken: dict[Any, Found] = {}
        is_whole = False
        for found in self._past.scan(slot, from_ms, to_ms):
            message = found.message
            if (message.source, message.session) != owner:
                continue
            if isinstance(message, Heartbeat):
                is_whole = is_whole or message.event_ms <= begin_ms
                if message.event_ms >= features.bin_ms:
                    return list(taken.values()), found, is_whole
            elif _is_data_of(message, features.market) and begin_ms <= message.exchange_ms < features.bin_ms:
                taken.setdefault(getattr(message, "trade_id", found.record.offset), found)
        return list(taken.values()), None, is_whole

    # --- what was in force ----------------------------------------------------------------------------------------

    def _manifests(self, moments: dict[str, int], missing: list[dict[str, str]]) -> dict[str, Any]:
        """Of every process that had a part in it, the manifest that was the newest one then."""
        newest: dict[str, Found] = {}
        for slot in self._past.slots("manifests"):
            for found in self._past.scan(slot):
                manifest: RunManifest = found.message
                if found.record.append_ms <= moments.get(manifest.process, -1):
                    newest[manifest.process] = found
        unknown = sorted(moments.keys() - newest.keys())
        missing += [{"link": f"manifest of {process}", "reason": "absent", "text": ""} for process in unknown]
        return {process: _told(found) for process, found in sorted(newest.items())}

    def _miss(self, missing: list[dict[str, str]], link: str, topic: str) -> None:
        """Note what was not found: taken by retention where the topic has lost records, else never seen there."""
        missing.append({"link": link, "reason": "retention" if self._past.has_lost(topic) else "absent", "text": topic})


def _ledger(intent: OrderIntent) -> tuple[str, ...]:
    """Which position an order of a strategy opens or closes."""
    return intent.account, intent.strategy, intent.exchange, intent.market


def _request_of(message: Message) -> str:
    """Which request a record of `order-requests` speaks of."""
    if isinstance(message, RequestChanged):
        return message.request.id
    return str(getattr(message, "id", "") or getattr(message, "request_id", ""))


def _is_data_of(message: Message, market: str) -> bool:
    """Whether it is a book or a trade of this market that features are made of: back-filled trades never are."""
    if isinstance(message, Trade):
        return message.market == market and message.origin != "backfill"
    return isinstance(message, OrderBook) and message.market == market


def _told(found: Found) -> dict[str, Any]:
    return {**found.place, "record": msgspec.to_builtins(found.message)}
