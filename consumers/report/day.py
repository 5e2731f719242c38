"""One KST day of a history: decisions of the time, decisions of the replay, fills, and the books beside them.

Called by `consumers.report.orders` through `read_day`. Reads the records once per topic, in constant memory but for
what belongs to the day's own orders. It must never take a part of a day for the whole: what cannot be read is named.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from consumers.replay.conditions import segments_of
from consumers.replay.decisions import run_decisions
from consumers.report.market import Books, Moment
from consumers.verify.session import day_ms
from infra.errors import ObservatorError
from infra.log import Record
from infra.settings import Settings
from streams import messages as m
from streams.history import History, spans_between
from streams.topics import decode

LATE_MS = 3_600_000
"""So long after the day's end fills of its orders are looked for."""


@dataclass(slots=True)
class Traced:
    """A decision as it was recorded, as the replay says it, or both."""

    intent_id: str
    recorded: m.OrderIntent | None = None
    replayed: m.OrderIntent | None = None
    place: str = ""
    """Topic, partition and offset of the recorded one."""
    fills: list[m.OrderFilled] = field(default_factory=list)
    ends: list[m.Message] = field(default_factory=list)

    @property
    def intent(self) -> m.OrderIntent:
        """The one that counts: the recorded one where there is one."""
        found = self.recorded or self.replayed
        assert found is not None
        return found

    @property
    def is_equal(self) -> bool:
        """Whether both sides have it, alike."""
        both = self.recorded is not None and self.replayed is not None
        return both and m.hash_of(self.recorded) == m.hash_of(self.replayed)  # type: ignore[arg-type]  # both are there


@dataclass(slots=True)
class Day:
    """What was found of one day."""

    day: str
    orders: dict[str, Traced] = field(default_factory=dict)
    vetoes: dict[str, Counter[str]] = field(default_factory=lambda: {"recorded": Counter(), "replayed": Counter()})
    signals: dict[str, m.Signal] = field(default_factory=dict)
    accounts: dict[str, list[tuple[int, m.AccountSettings]]] = field(default_factory=dict)
    books: Books = field(default_factory=lambda: Books(()))
    last_mids: dict[str, Decimal] = field(default_factory=dict)
    foreign: list[m.OrderFilled] = field(default_factory=list)
    """Fills of the day whose order was decided on another day, or by a person."""
    records: int = 0
    market_records: int = 0
    """Books, trades and heartbeats of the day; counted by `consumers.report.orders`."""
    is_replayed: bool = False
    """Whether there were inputs of trade, and they were folded again."""
    problems: list[str] = field(default_factory=list)
    not_replayed: str = ""
    """Why the day's decisions cannot be replayed; empty: they were."""

    @property
    def is_traded(self) -> bool:
        """Whether there was an order or a fill."""
        return bool(self.orders or self.foreign)

    def in_time(self) -> list[Traced]:
        """The orders by the time of their decision."""
        return sorted(self.orders.values(), key=lambda one: (one.intent.event_ms, one.intent_id))

    def fee_percent(self, account: str, at_ms: int) -> Decimal | None:
        """The fee by which the account's entries were judged then."""
        known = [one for since_ms, one in self.accounts.get(account, ()) if since_ms <= at_ms]
        return known[-1].fee_percent if known else None


def read_day(history: History, settings: Settings, day: str) -> Day:
    """Everything about a day; raises `BadSettings` where that is no day."""
    from_ms, to_ms = day_ms(day)
    found = Day(day)
    reader = _Reader(history, found, from_ms, to_ms)
    reader.decisions()
    _replay(history, settings, found, from_ms, to_ms)
    reader.events()
    if (found.orders or found.vetoes["recorded"].total()) and not (found.is_replayed or found.not_replayed):
        found.not_replayed = "trade-inputs: the history holds none of this day"
    reader.causes()
    reader.books()
    return found


def _replay(history: History, settings: Settings, found: Day, from_ms: int, to_ms: int) -> None:
    """The day's decisions once more; where that is not possible it is said why."""

    def take(topic: str, _key: str, output: Any) -> None:
        if isinstance(output, m.OrderIntent):
            found.orders.setdefault(output.id, Traced(output.id)).replayed = output
        elif isinstance(output, m.Veto):
            found.vetoes["replayed"][output.reason] += 1
        _ = topic

    try:
        for segment in segments_of(history, settings):
            begin, end = max(segment.first_ms, from_ms), min(segment.end_ms or to_ms, to_ms)
            spans = spans_between(history, ["trade-inputs"], begin, end) if begin < end else {}
            if spans:
                run_decisions(history, spans, segment.conditions, take)
                found.is_replayed = True
    except ObservatorError as error:
        found.not_replayed = str(error)
        for traced in found.orders.values():
            traced.replayed = None
        found.orders = {name: one for name, one in found.orders.items() if one.recorded is not None}
        found.vetoes["replayed"].clear()


class _Reader:
    """Reads topics of one day into `Day`."""

    def __init__(self, history: History, found: Day, from_ms: int, to_ms: int) -> None:
        self._history = history
        self._found = found
        self._from_ms = from_ms
        self._to_ms = to_ms

    def decisions(self) -> None:
        """What trade decided."""
        for record, message in self._messages("order-intents", self._from_ms, self._to_ms):
            if isinstance(message, m.OrderIntent):
                traced = self._found.orders.setdefault(message.id, Traced(message.id))
                traced.recorded = message
                traced.place = f"{record.topic}/{record.partition}/{record.offset}"
        for _, message in self._messages("controls", 0, self._to_ms):
            if isinstance(message, m.AccountSettings):
                self._found.accounts.setdefault(message.account, []).append((message.event_ms, message))

    def events(self) -> None:
        """What became of it; each fill once, however often it was told."""
        seen: set[str] = set()
        for record, message in self._messages("order-events", self._from_ms, self._to_ms + LATE_MS):
            is_of_day = record.append_ms < self._to_ms
            traced = self._found.orders.get(getattr(message, "intent_id", ""))
            if isinstance(message, m.OrderFilled):
                if message.fill_id in seen:
                    continue
                seen.add(message.fill_id)
                if traced is not None:
                    traced.fills.append(message)
                elif is_of_day:
                    self._found.foreign.append(message)
            elif isinstance(message, m.Veto):
                self._found.vetoes["recorded"][message.reason] += is_of_day
            elif traced is not None and isinstance(
                message, m.OrderCancelled | m.OrderRejected | m.OrderExpired | m.OrderUnknown
            ):
                traced.ends.append(message)

    def causes(self) -> None:
        """The signals behind the orders."""
        wanted = {one.intent.cause_id for one in self._found.orders.values() if one.intent.cause_kind == "signal"}
        if not wanted:
            return
        for _, message in self._messages("signals", self._from_ms - LATE_MS, self._to_ms):
            if message.id in wanted:
                self._found.signals[message.id] = message

    def books(self) -> None:
        """The market at the signal, at each fill and at the horizon's end of every order, and its last price."""
        moments = [moment for one in self._found.orders.values() for moment in moments_of(one, self._found)]
        self._found.books = Books(moments)
        last: dict[str, tuple[int, Decimal]] = {}
        traded = {m.key_of(one.exchange, one.market) for one in self._found.foreign}
        for _, row in self._messages("features", self._from_ms - LATE_MS, self._to_ms + LATE_MS):
            key = m.key_of(row.exchange, row.market)
            if key not in self._found.books.keys | traded:
                continue
            self._found.books.see(row)
            if row.mid is not None and row.bin_ms >= last.get(key, (0, Decimal(0)))[0]:
                last[key] = (row.bin_ms, Decimal(repr(row.mid)))
        self._found.last_mids = {key: mid for key, (_, mid) in last.items()}

    def _messages(self, topic: str, from_ms: int, to_ms: int) -> Iterator[tuple[Record, Any]]:
        """Readable records of a stretch; what cannot be read is named and not left out silently."""
        try:
            spans = spans_between(self._history, [topic], max(from_ms, 0), to_ms)
            for slot, span in spans.items():
                for record in self._history.read(slot, *span):
                    self._found.records += self._from_ms <= record.append_ms < self._to_ms
                    try:
                        yield record, decode(topic, record.value)
                    except msgspec.DecodeError as error:
                        self._found.problems.append(f"{topic}/{record.partition}/{record.offset}: {error}")
        except ObservatorError as error:
            self._found.problems.append(f"{topic}: {error}")


def moments_of(traced: Traced, found: Day) -> list[Moment]:
    """When the market is looked at for an order."""
    intent = traced.intent
    key = m.key_of(intent.exchange, intent.market)
    moments = [Moment(key, intent.event_ms), *(Moment(key, fill.event_ms) for fill in traced.fills)]
    signal = found.signals.get(intent.cause_id)
    return moments if signal is None else [*moments, Moment(key, signal.bin_ms + signal.horizon_ms)]
