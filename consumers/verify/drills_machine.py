"""Drills about our own side: restarts, broker, disk, clock, and two executors for one journal.

Called by `drills`, like `drills_network`.
"""

import shutil
import signal
import time
from decimal import Decimal
from pathlib import Path

from consumers.verify.drills_books import of_fills
from consumers.verify.drills_stage import TIMEOUT_S, Executor, Scene
from consumers.verify.drills_surroundings import set_clock

ANSWER_S = 1.5
DISK_KB = 2_048
FILE_BYTES = 4_096
DAY_MS = 86_400_000


def restart_with_position(scene: Scene) -> dict[str, float]:
    """Killed with coins at the exchange, some ours and some not; then the position is sold, and no more than it."""
    executor = scene.executor()
    executor.begin()
    entries = scene.bought(3)
    before = len(scene.truth())
    executor.kill()
    executor.begin()
    began_s = time.monotonic()
    exits = [scene.exit_of(entry, "1") for entry in entries]
    scene.publish(*exits)
    scene.wait(lambda: len(scene.truth()) > before, "trading goes on")
    resumed_s = time.monotonic() - began_s
    scene.wait(scene.is_settled, "settled")
    left = sum(_held(scene, entry.market) for entry in entries)
    return {
        "orders at the restart": len(scene.truth()) - before - len(exits),
        "seconds until trading goes on": resumed_s,
        "still held": float(left),
    }


def _held(scene: Scene, market: str) -> Decimal:
    """What the journal says we have of a market's coin."""
    return of_fills(scene.fills()).get(market.partition("-")[2], Decimal(0))


def broker_gone_at_commit(scene: Scene) -> dict[str, float]:
    """The broker is killed in the moment in which the executor commits offsets, with orders under way."""
    broker, executor = scene.hall.broker, scene.executor()
    executor.begin()
    entries = scene.bought(2)
    executor.kill()
    executor.begin("before_commit", 1, "kill", broker.pid or 0)
    scene.publish(*(scene.exit_of(entry) for entry in entries), scene.intent(2, "entry"))
    scene.wait(lambda: broker.pid is None, "the broker is gone")
    gone_s = time.monotonic()
    time.sleep(2.0)
    broker.kill()
    broker.start()
    scene.wait(scene.is_settled, "settled")
    seconds = time.monotonic() - gone_s
    scene.publish(*(scene.exit_of(entry) for entry in entries))
    scene.wait(scene.is_settled, "the next decisions")
    return {"broker killed at": 1, "seconds until settled": seconds, "executor ended": executor.has_ended()}


def database_full(scene: Scene) -> dict[str, float]:
    """The disk of the journal is full when an answer comes: nothing more is sent, and nothing is forgotten."""
    is_real = scene.small_disk(DISK_KB)
    limit = 0 if is_real else FILE_BYTES
    executor = scene.executor()
    executor.begin()
    entries = scene.bought(2)
    scene.fault("late-answer", seconds=ANSWER_S)
    scene.publish(scene.exit_of(entries[0]))
    scene.wait(lambda: scene.in_doubt() == 1, "an order under way")
    if is_real:
        _fill(scene.disk)
    else:
        executor.kill()
        executor.begin(file_bytes=limit)
    scene.publish(scene.exit_of(entries[1]), scene.intent(2, "entry"))
    scene.wait(executor.has_ended, "the executor ends by itself")
    if is_real:
        _fill(scene.disk)  # its end gave the room of its write-ahead log back
    sent = len(scene.truth())
    executor.begin(file_bytes=limit)  # as the supervisor would: it cannot work
    executor.has_ended(TIMEOUT_S * 2)
    sent_while_full = len(scene.truth()) - sent
    executor.kill()
    (scene.disk / "filler").unlink(missing_ok=True)
    executor.begin()
    seconds = scene.wait(scene.is_settled, "settled")
    return {"sent while full": sent_while_full, "seconds until settled": seconds, "real": is_real}


def _fill(folder: Path) -> None:
    """Write until the file system has no room left."""
    with (folder / "filler").open("ab", buffering=0) as out:
        for size in (65_536, 4_096, 1):
            try:
                while out.write(b"\0" * size):
                    pass
            except OSError:
                continue
    if shutil.disk_usage(folder).free:
        raise RuntimeError(f"{folder} has room left")


def clock_jump(scene: Scene) -> dict[str, float]:
    """The computer's clock jumps a day ahead and two days back while orders are under way."""
    scene.executor(has_clock=True).begin()
    entries = scene.bought(3)
    for number, days in enumerate((1, -1)):
        scene.fault("late-answer", seconds=ANSWER_S)
        scene.publish(scene.exit_of(entries[number]))
        scene.wait(lambda: scene.in_doubt() > 0, "an order under way")
        set_clock(scene.clock, days * DAY_MS)
        scene.publish(scene.exit_of(entries[2], "0.45"), scene.intent(3, "entry"))
        scene.wait(scene.is_settled, "settled")
    set_clock(scene.clock, 0)
    states = list(scene.states().values())
    return {"filled": states.count("DONE"), "expired": states.count("EXPIRED")}


def hand_over(scene: Scene) -> dict[str, float]:
    """One executor is asked to end while it sends, and another is started at once."""
    first, second = scene.executor(), scene.executor()
    first.begin()
    entries = scene.bought(3)
    scene.fault("late-answer", seconds=ANSWER_S, count=3)
    scene.publish(*(scene.exit_of(entry) for entry in entries), scene.intent(3, "entry"))
    scene.wait(lambda: scene.in_doubt() >= 2, "orders under way")
    under_way = scene.in_doubt()
    first.send(signal.SIGTERM)
    tries = _begin_until_it_holds(scene, second)
    scene.wait(first.has_ended, "the first one ends")
    scene.publish(*(scene.exit_of(entry) for entry in entries))
    scene.wait(scene.is_settled, "settled")
    return {"starts of the second": tries, "orders under way at the hand-over": under_way}


def _begin_until_it_holds(scene: Scene, executor: Executor, seconds: float = 30.0) -> int:
    """Start it again and again, as the supervisor does, until it stays; how often that was."""
    tries = 0
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        tries += 1
        executor.begin()
        if not executor.has_ended(1.5):
            return tries
        time.sleep(0.2)
    raise TimeoutError(f"{scene.name}: no executor stays")


def paused_executor(scene: Scene) -> dict[str, float]:
    """An executor sleeps with a request in its buffer, a new one is started beside it, and the old one wakes."""
    old, new = scene.executor(), scene.executor()
    old.begin()
    entries = scene.bought(2)
    old.kill()
    old.begin("in-buffer", 1, "stop")
    scene.publish(scene.exit_of(entries[0]))
    scene.wait(old.is_paused, "the old one sleeps")
    asleep_s = time.monotonic()
    new.begin()
    if scene.has_lease:
        scene.publish(scene.exit_of(entries[1]))
        scene.wait(lambda: len(scene.states()) > len(entries) + 1, "the new one works")
    else:
        scene.wait(new.has_ended, "the new one is refused")
    time.sleep(max(0.0, scene.lease_s + 1.0 - (time.monotonic() - asleep_s)))
    old.send(signal.SIGCONT)
    if scene.has_lease:
        scene.wait(old.has_ended, "the old one is fenced")
    else:
        scene.publish(scene.exit_of(entries[1]))
    scene.wait(scene.is_settled, "settled")
    return {
        "seconds asleep": time.monotonic() - asleep_s,
        "new one refused": 0 if scene.has_lease else 1,
        "old one fenced": 1 if scene.has_lease else 0,
    }
