"""Move a feed on in real time and pass its frames to the sockets and the exchange; one task of the sandbox's loop.

The synthetic market runs its warm-up at full speed once the first client has subscribed, waiting for slow readers, then
keeps pace with the wall clock. A recording is played with its own spacing divided by the speed.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

from producers.sandbox.aside import Aside
from producers.sandbox.feeds import Frame
from producers.sandbox.follow import Follow
from producers.sandbox.hub import Hub
from producers.sandbox.outside import Line
from producers.sandbox.recording import Recording
from producers.sandbox.synthetic import Synthetic

OnFrame = Callable[[Frame], None]

AS_FAST_AS_POSSIBLE = 1e6
_CHUNK_MS = 500
_MARGIN_MS = 3_000
"""At live speed. A market is saved when two thirds of it have passed, so what was sent is never further ahead."""
_LATE_CHUNK_MS = 100
"""Where a live market has fallen behind; requests are answered between two chunks."""
_LEAST_PAUSE_S = 0.004
"""What comes meanwhile is written in one go: one system call per client and pause, not per frame."""
_BATCH = 200


def wall_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


class Pace:
    """The exchange's time for a wall time: `start_ms` now, `speed` times as fast after it."""

    def __init__(self, speed: float, from_ms: int) -> None:
        """It starts at the wall's time, or at `from_ms` where a market that ran faster has come further."""
        self._speed = speed
        self._wall_ms = wall_ms()
        self.start_ms = max(self._wall_ms, from_ms)

    def now_ms(self) -> int:
        """The exchange's time now."""
        return self.start_ms + int((wall_ms() - self._wall_ms) * self._speed)

    def seconds_until(self, exchange_ms: int) -> float:
        """Wall seconds until the exchange's clock shows `exchange_ms`."""
        return (exchange_ms - self.now_ms()) / 1000.0 / self._speed


def _margin_ms(speed: float) -> int:
    return int(_MARGIN_MS * max(speed, 1.0))


def open_synthetic(feed: Synthetic, path: Path, warmup_seconds: int, speed: float) -> None:
    """Continue a saved market: time that was sent before is never sent again, longer pauses are warmed up anew."""
    if not feed.restore(path):
        return
    feed.resume_at(max(feed.clock_ms + _margin_ms(speed), wall_ms() - warmup_seconds * 1000))


async def drive_synthetic(
    feed: Synthetic,
    hub: Hub,
    on_frame: OnFrame,
    *,
    before: Callable[[int], None],
    speed: float,
    subscribed: asyncio.Event,
    path: Path | None,
) -> None:
    """Run until cancelled."""
    await subscribed.wait()
    pace = Pace(speed, feed.clock_ms - _margin_ms(speed))
    saved_ms = 0

    def pass_on(until_ms: int) -> None:
        for frame in feed.run_until(until_ms):
            before(frame.exchange_ms)
            hub.publish(frame)
            on_frame(frame)
        hub.flush()

    while True:
        now_ms = pace.now_ms()
        if now_ms - feed.clock_ms > _CHUNK_MS:
            pass_on(feed.clock_ms + (_LATE_CHUNK_MS if feed.is_warm else _CHUNK_MS))
            await hub.drained(is_live=feed.is_warm)
            await asyncio.sleep(0)
        else:
            pass_on(now_ms)
            await asyncio.sleep(min(max(pace.seconds_until(feed.next_ms), _LEAST_PAUSE_S), 0.05))
        if not feed.is_warm and (now_ms - feed.clock_ms <= _CHUNK_MS or feed.clock_ms >= pace.start_ms):
            feed.is_warm, feed.warm_ms = True, feed.clock_ms
        if path is not None and feed.clock_ms - saved_ms > _margin_ms(speed) * 2 // 3:
            saved_ms = feed.clock_ms
            feed.save(path)


async def drive_recording(
    feed: Recording,
    hub: Hub,
    on_frame: OnFrame,
    *,
    before: Callable[[int], None],
    speed: float,
    subscribed: asyncio.Event,
) -> None:
    """Play it once; it is called ended when the clients' systems have taken everything.

    `before` is told each line's time first, so that what was due until then happens on the book before it.
    """
    await subscribed.wait()
    start = time.monotonic()
    first_ns: int | None = None
    source = feed.source.lines()
    reading = Aside(lambda: list(itertools.islice(source, _BATCH)) or None).batches()
    async with aclosing(reading) as batches:
        async for line in _each(batches, hub, is_live=speed < AS_FAST_AS_POSSIBLE):
            first_ns = line.received_ns if first_ns is None else first_ns
            if speed < AS_FAST_AS_POSSIBLE:
                ahead = (line.received_ns - first_ns) / 1e9 / speed - (time.monotonic() - start)
                if ahead > 0.0005:
                    hub.flush()
                    await asyncio.sleep(ahead)
            before(line.exchange_ms)
            frame = feed.take_line(line)
            if frame is not None:
                hub.publish(frame)
                on_frame(frame)
            elif line.body is None:
                hub.publish_to_all(line.payload)
    hub.flush()
    await hub.drained(0)
    feed.is_ended = True


async def _each(batches: AsyncIterator[list[Line]], hub: Hub, *, is_live: bool) -> AsyncIterator[Line]:
    """Line by line; after each batch slow readers are waited for."""
    async for lines in batches:
        for line in lines:
            yield line
        hub.flush()
        await hub.drained(is_live=is_live)
        await asyncio.sleep(0)


async def drive_follow(feed: Follow, hub: Hub, on_frame: OnFrame, *, before: Callable[[int], None]) -> None:
    """Pass on what the log gives, as it comes; run until cancelled."""
    reading = Aside(feed.tail.read, feed.tail.close).batches()
    async with aclosing(reading) as batches:
        async for batch in batches:
            for frame in feed.take_batch(batch, before):
                if (
                    feed.is_warm and frame.kind != "backfill"
                ):  # the past happens to waiting orders and is told to nobody
                    hub.publish(frame)
                on_frame(frame)
            hub.flush()
