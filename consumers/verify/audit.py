"""Holds a log against itself: every record a session counted is there, and every row and signal is what it should be.

Used by the restart and recovery checks: the raw topics are run once, undisturbed, in memory, and compared with what
the disturbed processes wrote.
"""

from collections import defaultdict
from dataclasses import dataclass

import msgspec

from consumers.predict_stage import PredictStage
from infra.log import Log, Slot, slots_of
from infra.settings import Settings
from models.forecast.registry import serve
from streams import topics
from streams.messages import Features, Heartbeat, Hole, hash_of
from streams.runner import options_of
from streams.stage import INPUTS, PartitionStage


@dataclass(slots=True)
class Audit:
    """What was found."""

    records: int = 0
    records_lost: int = 0
    rows: int = 0
    rows_lost: int = 0
    rows_differing: int = 0
    rows_repeated: int = 0
    signals: int = 0
    signals_lost: int = 0
    signals_differing: int = 0
    signals_repeated: int = 0
    not_in_order: int = 0

    @property
    def is_clean(self) -> bool:
        """Nothing lost, nothing different."""
        return not (
            self.records_lost or self.rows_lost or self.rows_differing or self.signals_lost or self.signals_differing
        )

    def figures(self, label: str) -> dict[str, float]:
        """As figures of a verify command."""
        return {
            f"{label}: records": self.records,
            f"{label}: records lost": self.records_lost,
            f"{label}: feature rows": self.rows,
            f"{label}: rows lost": self.rows_lost,
            f"{label}: rows differing": self.rows_differing,
            f"{label}: rows repeated": self.rows_repeated,
            f"{label}: signals": self.signals,
            f"{label}: signals lost": self.signals_lost,
            f"{label}: signals differing": self.signals_differing,
            f"{label}: signals repeated": self.signals_repeated,
        }


def audit(log: Log, settings: Settings) -> Audit:
    """Read everything and compare. Rows newer than the newest one in the topic are not expected yet."""
    found = Audit()
    served = serve(settings.predict.model, settings.feed.kind, settings.home)
    partitions = log.partitions(INPUTS[0])
    for partition in range(partitions):
        expected = _rows_of(log, partition, settings, found)
        written = _written_rows(log, partition, found)
        _compare_rows(expected, written, found)
        predict = PredictStage(
            settings.feed.kind, served, settings.predict.window_rows, settings.predict.windows_per_call
        )
        signals = {signal.id: hash_of(signal) for signal in predict.on_rows(expected.values())}
        _compare_signals(log, partition, signals, found)
    return found


def _rows_of(log: Log, partition: int, settings: Settings, found: Audit) -> dict[tuple[str, int], Features]:
    """The rows that the raw records of a partition give, and whether the sessions' counts hold."""
    stage = PartitionStage(options_of(settings))
    rows: dict[tuple[str, int], Features] = {}
    for topic in INPUTS:
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for value in _values(log, Slot(topic, partition)):
            try:
                message = topics.decode(topic, value)
            except msgspec.DecodeError:
                continue
            session = (message.source, message.session)
            if isinstance(message, Heartbeat):
                found.records_lost += max(0, message.count - counts[session])
                counts[session] = max(counts[session], message.count)
            elif not isinstance(message, Hole):
                counts[session] += 1
                found.records += 1
            for row in stage.apply(topic, message):
                rows[row.market, row.bin_ms] = row
    return rows


def _written_rows(log: Log, partition: int, found: Audit) -> dict[tuple[str, int], bytes]:
    written: dict[tuple[str, int], bytes] = {}
    for value in _values(log, Slot("features", partition)):
        row: Features = topics.decode("features", value)
        digest = hash_of(row)
        key = (row.market, row.bin_ms)
        if key in written:
            found.rows_repeated += 1
            found.rows_differing += written[key] != digest
        written[key] = digest
    return written


def _compare_rows(
    expected: dict[tuple[str, int], Features], written: dict[tuple[str, int], bytes], found: Audit
) -> None:
    found.rows += len(expected)
    newest = max((bin_ms for _, bin_ms in written), default=0)
    for key, row in expected.items():
        if key not in written:
            found.rows_lost += key[1] <= newest
        else:
            found.rows_differing += written[key] != hash_of(row)
    found.rows_differing += len(written.keys() - expected.keys())


def _compare_signals(log: Log, partition: int, expected: dict[str, bytes], found: Audit) -> None:
    written: dict[str, bytes] = {}
    newest = 0
    for slot in slots_of(log, ["signals"]):
        if slot.partition != partition:
            continue
        for value in _values(log, slot):
            signal = topics.decode("signals", value)
            digest = hash_of(signal)
            if signal.id in written:
                found.signals_repeated += 1
                found.signals_differing += written[signal.id] != digest
            written[signal.id] = digest
            newest = max(newest, signal.bin_ms)
    found.signals += len(expected)
    found.signals_lost += len(expected.keys() - written.keys())
    found.signals_differing += sum(written[one] != digest for one, digest in expected.items() if one in written)
    found.signals_differing += len(written.keys() - expected.keys())


def _values(log: Log, slot: Slot) -> "list[bytes]":
    begin, end = log.bounds([slot])[slot]
    values: list[bytes] = []
    reader = log.reader({slot: begin})
    while reader.position(slot) < end:
        values += [record.value for record in reader.read(5_000, 1.0)]
    reader.close()
    return values
