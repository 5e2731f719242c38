"""The session that `verify replay` replays: real processes over a real broker, disturbed in every way, then archived.

The synthetic exchange is the market; a second sandbox follows the log and takes the paper orders, so that its fills can
be made again. Killed with -9, joined and left by workers, its market data cut and lost on the way.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from consumers.verify.deployment import Deployment, settle
from consumers.verify.processes import wait_until
from infra.catch_up import read_range
from infra.configuration import save
from infra.log import slots_of
from infra.secrets import keep_secret
from infra.servers.ports import port_of
from infra.store import FolderStore
from streams import topics
from streams.history import ArchiveHistory
from streams.messages import Hole, OrderFilled
from streams.stage import INPUTS
from streams.topics import TOPICS

DECIDING = ("features", "signals", "order-events", "controls", "markets", "quotes")
"""What trade reads."""
ARCHIVED = tuple(name for name in TOPICS if name not in {"logs", "dead-letters"})
_FOLLOWING = "following"
_SETTLE_S = 240.0


class Size(NamedTuple):
    """How large a session is."""

    markets: int
    warmup_seconds: int
    live_seconds: float
    window_bins: int
    at_least: int
    """Records that it must have."""
    is_short: bool = False
    """Fewer processes are killed."""


FULL = Size(150, 300, 300.0, 300, 1_000_000)
QUICK = Size(12, 130, 10.0, 60, 15_000, is_short=True)


def described(size: Size) -> dict[str, Any]:
    """The deployment's settings: every forecast is strong enough, so that there are orders."""
    return {
        "feed": {"kind": "synthetic", "market_count": size.markets, "warmup_seconds": size.warmup_seconds},
        "grid": {"window_bins": size.window_bins},
        "streams": {"runner": "loop", "workers": 2},
        "paper": {"threshold_percent": "-5", "cash": "1000000000", "budget": "100000000"},
        "archive": {"part_seconds": 1.0},
    }


class Session:
    """One session under way: `play` it, `archive` it."""

    def __init__(self, running: Deployment, size: Size) -> None:
        self.running = running
        self.size = size
        self.home = running.settings.home
        self.venue = self.home / "venue"
        """Run folder of the following sandbox and of the executor."""
        self.kills = 0
        self.rebalances = 0

    @property
    def journal(self) -> Path:
        """What the following sandbox noted of its fills."""
        return self.venue / "db" / "sandbox.journal"

    def play(self, tell: Callable[[str], None]) -> None:
        """Run it to its end: warm-up, live and disturbed, then everything stops in order."""
        tell("warm-up")
        self.running.start("sandbox", "feed", "streams", "predict", "trade")
        self._worker(1)
        self._open_venue()  # before the warm-up is over: the first live signals want entries, which do not wait
        settle(self.running, "signals", self.size.markets * 4 * max(1, self.size.warmup_seconds - 70), 600)
        tell("live, with kills, joining workers and holes")
        begun, steps = time.monotonic(), self._steps()
        for number, step in enumerate(steps):
            due = begun + self.size.live_seconds * (number + 1) / (len(steps) + 1)
            time.sleep(max(0.0, due - time.monotonic()))
            step()
        time.sleep(max(0.0, begun + self.size.live_seconds - time.monotonic()))
        tell("everything stops")
        self._stop()

    def _steps(self) -> list[Callable[[], None]]:
        """What happens to it, evenly spread."""
        steps = [
            lambda: self._kill("streams"),
            lambda: self._fault("lost-frame", count=5, kind="orderbook"),
            lambda: self._worker(2),
            lambda: self._kill("trade"),
            lambda: self._fault("drop-connection", count=1),
            lambda: self._leave("streams-2"),
            lambda: self._kill("execute"),
        ]
        if self.size.is_short:
            return steps
        return [
            *steps,
            lambda: self._kill("predict"),
            lambda: self._kill("feed"),
            lambda: self._kill("streams-1"),
        ]

    # --- disturbances ---------------------------------------------------------------------------------------------

    def _worker(self, number: int) -> None:
        """Another feature worker joins the group."""
        name = f"streams-{number}"
        command = ["-m", "observator", "process", "streams", "--worker", str(number)]
        self.running.children.start(name, command, {"OBSERVATOR_SETTINGS": str(self.home / "settings.json")})
        self.rebalances += 1

    def _leave(self, name: str) -> None:
        self.running.children.stop(name)
        self.rebalances += 1

    def _kill(self, name: str) -> None:
        self.running.children.kill(name)
        self.kills += 1
        if name == "execute":
            self._execute()
        elif name.startswith("streams-"):
            self._worker(int(name.rpartition("-")[2]))
        else:
            self.running.start(name)

    def _fault(self, name: str, **values: Any) -> None:
        port = port_of(self.home, "sandbox")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/sandbox/faults",
            data=json.dumps({"name": name, **values}).encode(),
            headers={
                "Authorization": f"Bearer {keep_secret(self.home / 'run' / 'secrets', 'sandbox-control')}",
                "Content-Type": "application/json",
            },
        )
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - same

    # --- the venue ------------------------------------------------------------------------------------------------

    def _open_venue(self) -> None:
        """A sandbox that follows the log, and the executor that orders there."""
        self.venue.mkdir()
        settings = self.running.settings
        followed = settings.model_copy(
            update={"home": self.venue, "feed": settings.feed.model_copy(update={"kind": "upbit"})}
        )
        save(followed, self.venue / "follow.json")
        save(settings.model_copy(update={"home": self.venue}), self.venue / "execute.json")
        command = ["-m", "observator", "--home", str(self.venue), "process", "sandbox"]
        self.running.children.start(_FOLLOWING, command, {"OBSERVATOR_SETTINGS": str(self.venue / "follow.json")})
        wait_until(self._follows, 120, "the following sandbox")
        self._execute()

    def _follows(self) -> bool:
        self.running.children.require_alive()
        try:
            address = f"http://127.0.0.1:{port_of(self.venue, 'sandbox')}/sandbox/status"
            with urllib.request.urlopen(address, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _execute(self) -> None:
        environ = {"OBSERVATOR_SETTINGS": str(self.venue / "execute.json")}
        self.running.children.start("execute", ["-m", "observator", "process", "execute"], environ)

    # --- its end --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Each process stops when it has nothing left to do; the paper orders settle before the venue goes."""
        running = self.running
        running.children.stop("feed")
        wait_until(lambda: not running.lag("features", list(INPUTS)), _SETTLE_S, "features", 0.3)
        wait_until(lambda: not running.lag("predict", ["features"]), _SETTLE_S, "signals", 0.3)
        wait_until(lambda: not running.lag("trade", ["features", "signals"]), _SETTLE_S, "decisions", 0.3)
        time.sleep(1.0)  # the events of the last orders
        for name in ("streams", "streams-1", "predict", "trade", "execute", _FOLLOWING, "sandbox"):
            running.children.stop(name)

    def archive(self) -> ArchiveHistory:
        """Archive all of it, by the archive's own process; returns when every record is there."""
        self.running.start("archive")
        store = FolderStore(self.home / "archive")

        def is_there() -> bool:
            self.running.children.require_alive()
            if store.size("archive.json") is None:
                return False
            kept = ArchiveHistory(store).spans(ARCHIVED)
            wanted = self.running.bounds(list(ARCHIVED))
            behind = {slot: kept[slot][1] if slot in kept else first for slot, (first, _) in wanted.items()}
            left = {slot: end for slot, end in behind.items() if end < wanted[slot][1]}
            return next(iter(read_range(self.running.log, left)), None) is None  # a last transaction marker may be left

        wait_until(is_there, _SETTLE_S, "the archive holds everything", 1.0)
        self.running.children.stop("archive")
        return ArchiveHistory(store)

    def figures(self) -> dict[str, float]:
        """What there is to replay."""
        running = self.running
        counts = {name: running.count(name) for name in TOPICS}
        slots = running.bounds(list(INPUTS))
        holes = fills = 0
        for record in read_range(running.log, {slot: first for slot, (first, _) in slots.items()}):
            holes += b'"hole"' in record.value[:40] and isinstance(topics.decode(record.topic, record.value), Hole)
        events = slots_of(running.log, ["order-events"])
        for record in read_range(running.log, dict.fromkeys(events, 0)):
            fills += isinstance(topics.decode("order-events", record.value), OrderFilled)
        names = ("orderbooks", "trades", "features", "signals", "order-intents")
        return {
            "session: records": sum(counts.values()),
            **{f"session: {name}": counts[name] for name in names},
            "session: kills": self.kills,
            "session: rebalances": self.rebalances,
            "session: holes": holes,
            "session: paper fills": fills,
        }
