"""Changes of a history that must not matter: other back-filled trades, and another order inside a bin.

Called by `consumers.verify.leaks`. A back-filled trade was fetched after the fact, so nothing that was known at its
time may hang on it. Pure and deterministic.
"""

import random
from collections.abc import Callable, Sequence

from consumers.verify.disturbed import Written
from consumers.verify.leaks_futures import Tape, other, recounted
from streams.messages import Trade


def without_backfill(tape: Tape) -> list[Written]:
    """The history as if no trade had ever been fetched afterwards."""
    is_backfill = [isinstance(message, Trade) and message.origin == "backfill" for message in tape.messages]
    return recounted(tape, (entry for entry in tape.entries() if not is_backfill[entry[0]]))


def with_other_backfill(tape: Tape) -> list[Written]:
    """The history with other values in every trade that was fetched afterwards."""
    return [
        other(tape, number) if isinstance(message, Trade) and message.origin == "backfill" else tape.records[number]
        for number, message in enumerate(tape.messages)
    ]


def shuffled(tape: Tape, kind: str, grid_ms: int, lateness_ms: int, rng: random.Random) -> list[Written]:
    """Another order of the records inside each bin; what each order keeps stands in `leaks_subjects.Shuffle`."""
    blocks: dict[int, list[int]] = {}
    for number, at_ms in enumerate(tape.at_ms):
        blocks.setdefault((at_ms - lateness_ms - 1) // grid_ms, []).append(number)
    order = [number for block in blocks.values() for number in _mixed(tape, kind, block, rng)]
    return [
        tape.records[number]._replace(at_ms=tape.at_ms[place]) for place, number in enumerate(order)
    ]  # fmt: skip


def _mixed(tape: Tape, kind: str, block: Sequence[int], rng: random.Random) -> list[int]:
    if kind == "topics":
        return _merged(block, lambda number: tape.records[number][1:3], rng)
    mixed: dict[int, int] = {}
    runs: dict[object, list[list[int]]] = {}
    for number in block:
        record = tape.records[number]
        slot = (record.topic, record.partition)
        of_slot = runs.setdefault(slot, [[]])
        if tape.event_ms[number] < 0:
            of_slot.append([])  # a heartbeat or a hole ends the run: what lies before it stays before it
        elif kind == "markets" or record.topic == "trades":
            of_slot[-1].append(number)
    for of_slot in runs.values():
        for run in of_slot:
            of_market = {number: tape.records[number].key for number in run}
            if kind == "markets":
                mixed.update(zip(run, _merged(run, of_market.__getitem__, rng), strict=True))
            else:
                for key in dict.fromkeys(of_market.values()):
                    own = [number for number in run if of_market[number] == key]
                    mixed.update(zip(own, rng.sample(own, len(own)), strict=True))
    return [mixed.get(number, number) for number in block]


def _merged(numbers: Sequence[int], key_by: Callable[[int], object], rng: random.Random) -> list[int]:
    """Another merge of the same sequences."""
    queues: dict[object, list[int]] = {}
    for number in numbers:
        queues.setdefault(key_by(number), []).append(number)
    turns = [key for key, queue in queues.items() for _ in queue]
    rng.shuffle(turns)
    heads = {key: iter(queue) for key, queue in queues.items()}
    return [next(heads[key]) for key in turns]
