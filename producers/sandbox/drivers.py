"""Move a feed on in real time and pass its frames to the sockets and the exchange; one task of the sandbox's loop.

The synthetic market runs its warm-up at full speed once the first client has subscribed, waiting for slow readers, then
keeps pace with the wall clock. A recording is played with its own spacing divided by the speed.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from producers.sandbox.feeds import Frame
from producers.sandbox.recording import Recording
from producers.sandbox.sockets import Hub
from producers.sandbox.synthetic import Synthetic

OnFrame = Callable[[Frame], None]

AS_FAST_AS_POSSIBLE = 1e6
_CHUNK_MS = 500
_SAVE_SECONDS = 2.0
_MARGIN_MS = 3_000
_BATCH = 200


def wall_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


class Pace:
    """The exchange's time for a wall time: equal at `start_ms`, `speed` times as fast after it."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self.start_ms = wall_ms()

    def now_ms(self) -> int:
        """The exchange's time now."""
        wall = wall_ms()
        return wall if self._speed == 1.0 else self.start_ms + int((wall - self.start_ms) * self._speed)

    def seconds_until(self, exchange_ms: int) -> float:
        """Wall seconds until the exchange's clock shows `exchange_ms`."""
        return (exchange_ms - self.now_ms()) / 1000.0 / self._speed


def open_synthetic(feed: Synthetic, path: Path, warmup_seconds: int) -> None:
    """Continue a saved market: time that was sent before is never sent again, longer pauses are warmed up anew."""
    if not feed.restore(path):
        return
    feed.resume_at(max(feed.clock_ms + _MARGIN_MS, wall_ms() - warmup_seconds * 1000))


async def drive_synthetic(
    feed: Synthetic, hub: Hub, on_frame: OnFrame, *, speed: float, subscribed: asyncio.Event, path: Path | None
) -> None:
    """Run until cancelled."""
    await subscribed.wait()
    pace = Pace(speed)
    saved = time.monotonic()

    def pass_on(until_ms: int) -> None:
        for frame in feed.run_until(until_ms):
            hub.publish(frame)
            on_frame(frame)
        hub.flush()

    while True:
        now_ms = pace.now_ms()
        if now_ms - feed.clock_ms > _CHUNK_MS:
            pass_on(feed.clock_ms + _CHUNK_MS)
            await hub.drained()
            await asyncio.sleep(0)
        else:
            pass_on(now_ms)
            await asyncio.sleep(min(max(pace.seconds_until(feed.next_ms), 0.001), 0.05))
        if not feed.is_warm and (now_ms - feed.clock_ms <= _CHUNK_MS or feed.clock_ms >= pace.start_ms):
            feed.is_warm, feed.warm_ms = True, feed.clock_ms
        if path is not None and time.monotonic() - saved > _SAVE_SECONDS:
            saved = time.monotonic()
            feed.save(path)


async def drive_recording(
    feed: Recording, hub: Hub, on_frame: OnFrame, *, speed: float, subscribed: asyncio.Event
) -> None:
    """Play the file once; it is called ended when the clients' systems have taken everything."""
    await subscribed.wait()
    start = time.monotonic()
    first_s: float | None = None
    for count, (line, frame) in enumerate(feed.frames(), 1):
        if first_s is None:
            first_s = line.received_s
        if speed < AS_FAST_AS_POSSIBLE:
            ahead = (line.received_s - first_s) / speed - (time.monotonic() - start)
            if ahead > 0.0005:
                hub.flush()
                await asyncio.sleep(ahead)
        if frame is None:
            hub.publish_to_all(line.payload)
        else:
            hub.publish(frame)
            on_frame(frame)
        if count % _BATCH == 0:
            hub.flush()
            await hub.drained()
            await asyncio.sleep(0)
    hub.flush()
    await hub.drained(0)
    feed.is_ended = True
