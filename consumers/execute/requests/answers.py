"""What the log says of people's requests: the requests, the executor's words on them, what the assistant saved.

Read by `verbs` for the command line; nothing is written here.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from consumers.execute.requests.check import shown
from consumers.execute.requests.form import interval
from consumers.execute.requests.saving import Outcome, compare
from consumers.execute.requests.words import Language, korean, sentence
from infra.errors import Stop
from infra.log import Log, Record, Slot, slots_of
from streams import topics
from streams.messages import OrderRequested, RequestChanged, RequestTold, encode

REQUESTS = "order-requests"
EVENTS = "order-events"
BATCH = 1_000
FINAL = frozenset({"done", "cancelled", "refused", "missed"})


class Standing(NamedTuple):
    """A request in the log, and the executor's last word on it."""

    request: OrderRequested
    told: RequestTold | None

    @property
    def state(self) -> str:
        """`untold` where the executor has not answered."""
        return self.told.state if self.told is not None else "untold"


def requests_in(log: Log, account: str) -> list[Standing]:
    """An account's requests in the log, oldest first, each with the last word on it."""
    found: dict[str, OrderRequested] = {}
    for record in whole(log, [REQUESTS]):
        message = decoded(record)
        if isinstance(message, OrderRequested):
            found.setdefault(message.id, message)
        elif isinstance(message, RequestChanged) and message.request.id in found:
            found[message.request.id] = message.request
    told = {event.id: event for event in words_in(log)}
    mine = [request for request in found.values() if request.account == account]
    return [Standing(request, told.get(request.id)) for request in mine]


def words_in(log: Log) -> Iterator[RequestTold]:
    """Everything that was told of requests, each once."""
    seen: set[tuple[str, str, str, int]] = set()
    for record in whole(log, [EVENTS]):
        event = decoded(record) if b'"request-told"' in record.value else None
        if isinstance(event, RequestTold):
            key = event.id, event.intent_id, event.reason, event.event_ms
            if key not in seen:
                seen.add(key)
                yield event


def savings_in(log: Log, account: str) -> dict[str, Any]:
    """What the assistant saved: assisted orders against those that were sent at once by lot."""
    groups: dict[bool, list[Outcome]] = {False: [], True: []}
    for event in words_in(log):
        if event.account == account and event.saved is not None and event.funds is not None and event.funds > 0:
            groups[event.is_control].append(Outcome(float(event.saved), float(event.funds)))
    found = compare(groups[False], groups[True])
    return {
        "account": account,
        "assisted": found.assisted._asdict(),
        "control": found.control._asdict(),
        "difference": {"mean_bp": found.difference_bp, "low_bp": found.low_bp, "high_bp": found.high_bp},
    }


def row_of(one: Standing) -> dict[str, Any]:
    """A line of the list."""
    request, told = one.request, one.told
    amount = request.funds if request.funds is not None else request.quantity
    return {
        "id": request.id[:8],
        "state": one.state,
        "market": request.market,
        "side": request.side,
        "amount": shown(amount) if amount is not None else "",
        "price": shown(request.price) if request.price is not None else "market",
        "at": korean(request.at_ms) if request.at_ms is not None else "",
        "every": interval(request.every_ms) if request.every_ms is not None else "",
        "condition": f"{request.trigger} {shown(request.trigger_price)}" if request.trigger_price is not None else "",
        "said": told.text if told is not None else "the executor has not answered yet",
    }


def short_row_of(one: Standing) -> dict[str, Any]:
    """The same in few columns, for a terminal."""
    row = row_of(one)
    words = [row["side"], row["market"], row["amount"], f"at {row['price']}" if row["price"] != "market" else ""]
    more = [row["condition"], f"every {row['every']}" if row["every"] else ""]
    return {
        "id": row["id"],
        "state": row["state"],
        "order": " ".join(word for word in [*words, *more] if word),
        "said": row["said"],
    }


def line_of(event: RequestTold, language: Language = "en") -> str:
    """The executor's word, for people."""
    line = f"{event.id[:8]} {event.state}: {sentence(event.reason, event.values, language)}"
    if event.saved is None or event.is_control:
        return line
    amount = f"{event.saved:,.2f}"
    return line + (f" 바로 주문 대비 절약: {amount}." if language == "ko" else f" Against sending at once: {amount}.")


def as_dict(event: RequestTold) -> dict[str, Any]:
    """The executor's word, for JSON; in both languages."""
    found: dict[str, Any] = msgspec.json.decode(encode(event))
    return {**found, "text_ko": sentence(event.reason, event.values, "ko")}


Read = Callable[[int, float], list[Record]]


def words_on(read: Read, request_id: str, answer_s: float, wait_s: float) -> Iterator[RequestTold]:
    """The executor's words on a request as they come: the first within `answer_s`, all within `wait_s` after it."""
    end_s = time.monotonic() + answer_s
    is_answered = False
    while (left_s := end_s - time.monotonic()) > 0:
        for record in read(BATCH, min(left_s, 0.2)):
            event = decoded(record) if request_id.encode() in record.value else None
            if isinstance(event, RequestTold) and event.id == request_id:
                if not is_answered:
                    end_s, is_answered = time.monotonic() + max(wait_s, 1.0), True
                yield event


def answer(words: Iterable[RequestTold], request_id: str, *, is_now: bool) -> RequestTold:
    """The word to show: the end where the order is for now, else the first."""
    last: RequestTold | None = None
    for event in words:
        last = event
        if not is_now or event.state in FINAL:
            return event
    if last is None:
        raise Stop(
            f"The executor has not answered. The request {request_id} stands in the log and is taken when the process"
            f" `execute` runs (`observator status`); `observator order cancel {request_id[:8]}` takes it back."
        )
    return last


def whole(log: Log, names: Iterable[str]) -> Iterator[Record]:
    """All records of some topics up to now."""
    bounds = log.bounds(slots_of(log, names))
    yield from _between(log, {slot: (first, end) for slot, (first, end) in bounds.items() if end > first})


def tail(log: Log, slot: Slot, count: int) -> Iterator[Record]:
    """The last records of a partition."""
    first, end = log.bounds([slot])[slot]
    if end > first:
        yield from _between(log, {slot: (max(first, end - count), end)})


def _between(log: Log, bounds: dict[Slot, tuple[int, int]]) -> Iterator[Record]:
    if not bounds:
        return
    reader = log.reader({slot: first for slot, (first, _) in bounds.items()})
    try:
        while any(reader.position(slot) < end for slot, (_, end) in bounds.items()):
            yield from reader.read(BATCH, 0.5)
    finally:
        reader.close()


def decoded(record: Record) -> object:
    """The message; None for one that cannot be read."""
    try:
        return topics.decode(record.topic, record.value)
    except msgspec.DecodeError:
        return None
