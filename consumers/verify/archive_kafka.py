"""The trials of `verify archive` on a real Kafka: records, transactions among them, archived while they come; killed at
random times from outside, then read back and held against the log's own records.

Called by `archive`, in a full run only.
"""

import logging
import os
import random
from collections import Counter
from pathlib import Path

from consumers.verify.archive_stage import Children
from consumers.verify.archive_world import Judged, judge, records_of_seed
from infra.errors import Retry
from infra.log import Log, Record, Transactor, slots_of
from infra.store import FolderStore

_RECORDS = 4_000

logger = logging.getLogger(__name__)


def kafka_trials(folder: Path, count: int, sums: Judged, conditions: dict[str, object]) -> dict[str, float]:
    """Play them; what the archive's parts and Kafka's own files take per record is told too."""
    from consumers.verify.archive import add  # noqa: PLC0415 - it calls this module
    from infra.kafka import KafkaLog  # noqa: PLC0415 - a quick run needs no broker
    from infra.servers.jars import default_cache  # noqa: PLC0415 - same
    from infra.servers.kafka import KafkaServer  # noqa: PLC0415 - same

    figures: Counter[str] = Counter()
    server = KafkaServer(folder / "broker", default_cache(os.environ), heap_mb=256)
    children = Children()
    try:
        server.start()
        for number in range(count):
            with KafkaLog(server.bootstrap, f"t{number}-") as log:
                write(log, records_of_seed(number, _RECORDS))
                figures["kills on Kafka"] += _killed(children, folder / f"kafka-{number}", server.bootstrap, number)
                found = judge(FolderStore(folder / f"kafka-{number}"), read(log), {}, is_closed=False)
            add(sums, found)
            figures["trials on Kafka"] += 1
            if not found.is_exact:
                figures["failed"] += 1
                conditions[f"Kafka ({number})"] = f"missing {found.missing}, twice {found.twice}, {found.faults[:3]}"
    finally:
        children.close()
        server.stop()
    return dict(figures)


def write(log: Log, records: list[Record]) -> None:
    """Everything by a publisher, order intents in transactions of ten, one in five of them thrown away."""
    from consumers.verify.archive_world import TOPICS  # noqa: PLC0415 - with its only use
    from streams.process import topic_specs  # noqa: PLC0415 - same

    log.create_topics([spec for spec in topic_specs() if spec.name in TOPICS])
    publisher = log.publisher()
    intents = [record for record in records if record.topic == "order-intents"]
    for record in records:
        if record.topic != "order-intents":
            publisher.publish(record.topic, record.key, record.value, record.partition)
    publisher.flush(60)
    publisher.close()
    transactor = log.transactor("writer")
    for start in range(0, len(intents), 10):
        is_kept = start % 50 != 40
        while not _written(transactor, intents[start : start + 10], is_kept=is_kept):
            transactor.close()  # as trade does: a transaction that the broker broke off is done again by a new holder
            transactor = log.transactor("writer")
    transactor.close()


def _written(transactor: Transactor, records: list[Record], *, is_kept: bool) -> bool:
    """One transaction, committed or thrown away; False where the broker broke it off."""
    try:
        transactor.begin()
        for record in records:
            transactor.publish(record.topic, record.key, record.value, record.partition)
        if is_kept:
            transactor.commit(None, "", {})
        else:
            transactor.abort()
    except Retry as error:
        logger.warning("a transaction is done again: %s", error)
        return False
    return True


def read(log: Log) -> list[Record]:
    """Every record that a reader of the log gets."""
    from consumers.verify.archive_world import TOPICS  # noqa: PLC0415 - with its only use

    bounds = log.bounds(slots_of(log, TOPICS))
    reader = log.reader({slot: first for slot, (first, _) in bounds.items()})
    found: list[Record] = []
    try:
        while any(reader.position(slot) < end for slot, (_, end) in bounds.items()):
            found += reader.read(5_000, 1.0)
    finally:
        reader.close()
    return found


def _killed(children: Children, local: Path, bootstrap: str, number: int) -> int:
    """Three lives killed at random times, and one to the end; how many were killed."""
    import threading  # noqa: PLC0415 - with its only use

    from consumers.verify.archive_disk import kill  # noqa: PLC0415 - same

    rng = random.Random(number)  # noqa: S311 - of a trial
    wanted = {
        "local": str(local), "remote": [], "seed": 0, "count": 8, "share": 1.0, "firsts": [], "point": "", "nth": 1,
        "batch": 500, "part_records": 60, "is_threaded": False, "bootstrap": bootstrap, "prefix": f"t{number}-",
    }  # fmt: skip
    kills = 0
    for _ in range(3):

        def on_said(pid: int, said: dict[str, object]) -> None:
            if not said:
                threading.Timer(rng.uniform(0.1, 2.0), kill, (pid,)).start()

        kills += children.live(wanted, on_said).is_killed
    children.live(wanted)
    return kills
