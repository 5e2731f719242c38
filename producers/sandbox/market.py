"""Which market a sandbox has, made from its configuration, and the driver that moves it on. Called by the server."""

import asyncio
from collections.abc import Callable
from typing import Any

from infra.errors import BadSettings
from producers.sandbox import drivers
from producers.sandbox.configuration import Configuration
from producers.sandbox.drivers import OnFrame, wall_ms
from producers.sandbox.feeds import Feed
from producers.sandbox.follow import Follow
from producers.sandbox.hub import Hub
from producers.sandbox.logged import Logged, Tail
from producers.sandbox.recording import RawFrames, Recording, Source
from producers.sandbox.stored import StoredFrames
from producers.sandbox.synthetic import Synthetic, compile_kernels


def open_market(configuration: Configuration) -> Feed:
    """The market; raises `BadSettings` where it cannot be played."""
    if configuration.kind == "recording":
        return Recording(_source(configuration))
    if configuration.kind == "follow":
        if configuration.followed_log is None:
            raise BadSettings("a followed market needs a log")
        stale_ms = int(configuration.stale_seconds * 1000)
        return Follow(Tail(configuration.followed_log), stale_ms=stale_ms, now_ms=wall_ms)
    if configuration.kind != "synthetic":
        raise BadSettings(f"there is no market of the kind {configuration.kind!r}")
    compile_kernels()
    feed = Synthetic(configuration.plan, wall_ms() - configuration.warmup_seconds * 1000)
    configuration.market_path.parent.mkdir(parents=True, exist_ok=True)
    drivers.open_synthetic(feed, configuration.market_path, configuration.warmup_seconds, configuration.speed)
    return feed


def _source(configuration: Configuration) -> Source:
    if configuration.played_log is not None:
        return Logged(configuration.played_log, configuration.played_offsets)
    path = configuration.recording
    if path is None:
        raise BadSettings("a recorded market needs a recording")
    if path.suffix == ".parquet":
        return StoredFrames(path, configuration.recording_trades)
    return RawFrames(path)


async def drive(
    feed: Feed,
    hub: Hub,
    on_frame: OnFrame,
    configuration: Configuration,
    *,
    before: Callable[[int], None],
    subscribed: asyncio.Event,
) -> None:
    """Move the market on until cancelled, or to its end. `before` is told the time of each frame before it is shown."""
    if isinstance(feed, Synthetic):
        await drivers.drive_synthetic(
            feed, hub, on_frame, before=before, speed=configuration.speed, subscribed=subscribed,
            path=configuration.market_path,
        )  # fmt: skip
    elif isinstance(feed, Recording):
        await drivers.drive_recording(
            feed, hub, on_frame, before=before, speed=configuration.speed, subscribed=subscribed
        )  # fmt: skip
    elif isinstance(feed, Follow):
        subscribed.set()  # it does not wait for anybody
        await drivers.drive_follow(feed, hub, on_frame, before=before)


def described(feed: Feed, configuration: Configuration) -> dict[str, Any]:
    """What `/sandbox/status` adds about its market."""
    if isinstance(feed, Synthetic):
        return {"plan": repr(configuration.plan)}
    if isinstance(feed, Recording):
        return {"recording": {"frames": dict(feed.frames_by_kind), "skipped": dict(feed.skipped)}}
    if isinstance(feed, Follow):
        lags = {row.market: feed.lag_ms(row.market) for row in feed.markets()}
        return {"follow": {"lag_ms": lags, "skipped": dict(feed.skipped), "late": feed.tail.late}}
    return {}
