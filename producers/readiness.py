"""Whether the chosen feed can be begun at all, asked before anything is started. Called by the command line."""

from infra.errors import BadSettings, Stop
from infra.reach import why_unreachable
from infra.settings import Settings
from producers.upbit import addresses


def refuse_unreachable(settings: Settings) -> None:
    """Raise where the exchange does not answer, or the recording is missing."""
    if settings.feed.kind == "upbit" and (
        reason := why_unreachable("The exchange Upbit", f"{addresses.REAL_REST}/v1/market/all")
    ):
        raise Stop(reason)
    feed = settings.feed
    for name, path in (("recording", feed.recording), ("recording_trades", feed.recording_trades)):
        if feed.kind == "recording" and path is not None and not path.is_file():
            raise BadSettings(f"The feed is a recording, and `feed.{name}` names no file that exists.")


def refuse_another_feed(settings: Settings) -> None:
    """One log holds one market's time: a recording of 2021 after a live feed would be older than every closed bin."""
    kept = settings.home / "run" / "feed"
    feed = settings.feed
    mine = f"{feed.kind} {feed.played} prefix {settings.kafka.prefix!r}"
    if kept.is_file() and (known := kept.read_text()) != mine:
        raise BadSettings(
            f"The log of this run folder was written by the feed {known}; this one is {mine}. "
            "Use another folder (--home) or another kafka.prefix."
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(mine)
