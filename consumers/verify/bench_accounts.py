"""`observator bench accounts`: a thousand accounts on one signal stream, each with its own pocket at the exchange.

Accounts come in groups of which each trades one market, so that a strong forecast there affects exactly that group.
Measured are CPU and memory of trade and execute per 100 affected accounts and the states that trade writes; and on
small groups, wave by wave in pairs, whether one account whose key the exchange refuses makes the others wait: a hundred
orders at once fill two cores for seconds, and what one key adds would drown in that.
"""

import json
import logging
import time
import urllib.request
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from consumers.verify.bench_orders_load import Books, Load
from consumers.verify.bench_orders_stage import FLAT, NEVER_MS, account, markets_of, percentiles, publish, start
from consumers.verify.bench_orders_tap import Tap
from consumers.verify.deployment import Deployment, deployment
from consumers.verify.processes import wait_until
from infra.catch_up import read_range
from infra.figures import result_of
from infra.log import Slot
from infra.servers.ports import port_of
from streams import topics
from streams.messages import OrderExpired, OrderIntent

logger = logging.getLogger(__name__)

SMALL_IN_S, SMALL_OUT_S = 7, 4
TURNS = 6
"""Seconds in which entries are wanted: many accounts take turns in a market, over five bins at most."""
MOST_ADDED_MS = 40.0
"""Upper end of the interval of what a refused key adds, as long as the whole way from signal to order may take: a wider
interval says nothing."""
ENOUGH = 0.9
"""Share of the orders wanted that must have been decided: an entry that expired has no exit."""
CASH = "1000000"
PROCESSES = ("trade", "execute")


class Plan(NamedTuple):
    """How many accounts each group has, large ones first, and how often the small ones enter and leave in pairs."""

    large: tuple[int, ...]
    small: tuple[int, ...]
    pairs: int
    wave_s: int
    idle_s: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Accounts of every group."""
        return self.large + self.small


FULL = Plan((100,) * 9, (10,) * 10, 2, 10, 40)
QUICK = Plan((20,), (6,) * 2, 1, 7, 8)


class Wave(NamedTuple):
    """One strong forecast: the group it affected, and whether one of its keys was refused."""

    group: int
    is_entry: bool
    has_refused: bool
    began_ms: int
    pair: int = 0


class Use(NamedTuple):
    """What the two processes used so far, or hold now."""

    cpu_s: dict[str, float]
    mb: dict[str, float]


class Crowd:
    """The accounts, their keys and the load on one deployment."""

    def __init__(self, running: Deployment, sizes: Sequence[int]) -> None:
        self.running = running
        self._group = [group for group, size in enumerate(sizes) for _ in range(size)]
        self.names = [f"crowd-{number:04d}" for number in range(len(self._group))]
        self.port = port_of(running.settings.home, "sandbox")
        self.markets = markets_of(self.port, len(sizes))
        self._secrets: dict[str, str] = {}

    def of_group(self, group: int) -> list[str]:
        """The accounts that trade a group's market."""
        return [name for name, own in zip(self.names, self._group, strict=True) if own == group]

    def open(self) -> None:
        """Accounts at the exchange, their keys in files, their settings in the log."""
        token = (self._folder / "sandbox-control").read_text().strip()
        for name in self.names:
            self._secrets[name] = _opened(self.port, token, name)
            self._write(name, self._secrets[name])
        publish(
            self.running,
            *(
                account(name, name, budget=Decimal(500_000), markets=[self.markets[group]])
                for name, group in zip(self.names, self._group, strict=True)
            ),
        )

    def refuse(self, name: str) -> None:
        """From here on the exchange refuses what this account signs."""
        self._write(name, "not-the-secret-" + name)

    def mend(self, name: str) -> None:
        """Its right key again."""
        self._write(name, self._secrets[name])

    def use(self) -> Use:
        """CPU so far and memory now; raises where a process has ended, with its last lines."""
        self.running.children.require_alive()
        return Use(
            {name: self.running.cpu_seconds(name) for name in PROCESSES},
            {name: self.running.own_memory_mb(name) for name in PROCESSES},
        )

    @property
    def _folder(self) -> Path:
        return self.running.settings.home / "run" / "secrets"

    def _write(self, name: str, secret: str) -> None:
        file = self._folder / f"{name}.new"
        file.write_text(secret)
        file.rename(self._folder / name)


def _opened(port: int, token: str, name: str) -> str:
    """Make an account at the sandbox exchange; its secret."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/sandbox/accounts",
        data=json.dumps({"access_key": name, "balances": {"KRW": CASH}}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - an address on this machine
        return str(json.loads(answer.read())["secret_key"])


def bench_accounts(*, quick: bool = False) -> dict[str, object]:
    """Passes where only changed states are written, all orders go out, and a refused key delays nobody else."""
    plan = QUICK if quick else FULL
    groups = len(plan.sizes)
    described: dict[str, Any] = {
        "feed": {"kind": "synthetic", "market_count": groups, "warmup_seconds": 0, "books_per_second": 1},
        "execute": {"orders_per_minute": 100_000, "orders_per_day": 1_000_000, "maximum_exposure": "1000000000"},
    }
    with deployment(described) as running:
        running.start("sandbox")
        crowd = Crowd(running, plan.sizes)
        books, tap = Books(crowd.port, crowd.markets), Tap(crowd.port)
        books.start()
        try:
            wait_until(lambda: len(books.levels) >= groups, 120, "books of every market")
            start(running, tap.port, "transaction")
            load = Load(running.log, crowd.markets, [], lambda market: books.levels.get(market, FLAT))
            figures = _measured(crowd, plan, load, tap)
            load.close()
        finally:
            books.close()
            tap.close()
    is_small = figures["wait added by a refused key, from ms"] <= 0 or figures["wait added by a refused key ms"] <= 1
    is_fair = is_small and figures["wait added by a refused key, to ms"] <= MOST_ADDED_MS
    is_enough = figures["orders"] + figures["orders told as too late"] >= ENOUGH * figures["orders wanted"]
    is_met = is_fair and is_enough and figures["unchanged states written"] == figures["orders missing"] == 0
    conditions = {"quick": quick, **plan._asdict(), "accounts": sum(plan.sizes)}
    return result_of("accounts", figures, conditions, passed=is_met)


def _measured(crowd: Crowd, plan: Plan, load: Load, tap: Tap) -> dict[str, float]:
    running = crowd.running
    load.run(3, 0)
    before = crowd.use()
    crowd.open()
    load.run(5, 0)
    opened, began = crowd.use(), running.bounds(["account-states", "order-intents", "order-events"])
    load.run(plan.idle_s, 0)
    idle = crowd.use()
    waves = _large_waves(crowd, plan, load)
    done = crowd.use()
    seconds, affected = len(waves) * plan.wave_s, sum(plan.large) * len(waves) / len(plan.large)
    figures = {"accounts": float(len(crowd.names)), "affected accounts": affected}
    for name in PROCESSES:
        rest_s = (idle.cpu_s[name] - opened.cpu_s[name]) / plan.idle_s * seconds
        extra_s = done.cpu_s[name] - idle.cpu_s[name] - rest_s
        figures |= {
            f"{name}: ms of CPU per 100 affected accounts": round(extra_s * 1000 / affected * 100, 1),
            f"{name}: share of a core while nobody is affected": round(rest_s / seconds, 3),
            f"{name}: MB per 100 accounts": round((opened.mb[name] - before.mb[name]) / len(crowd.names) * 100, 2),
            f"{name}: MB more per 100 affected accounts": round(
                (done.mb[name] - idle.mb[name]) / sum(plan.large) * 100, 2
            ),
        }
    paired = _small_waves(crowd, plan, load)
    running.children.require_alive()
    return figures | _states(running, began) | _waits(crowd, [*waves, *paired], began, tap, len(waves))


def _large_waves(crowd: Crowd, plan: Plan, load: Load) -> list[Wave]:
    """Every large group enters and leaves."""
    waves: list[Wave] = []
    for is_entry in (True, False):
        for group in range(len(plan.large)):
            waves.append(Wave(group, is_entry, has_refused=False, began_ms=time.time_ns() // 1_000_000))
            load.run(plan.wave_s, 0, [crowd.markets[group]], TURNS if is_entry else 1)
    return waves


def _small_waves(crowd: Crowd, plan: Plan, load: Load) -> list[Wave]:
    """Every small group enters and leaves with all keys good and with a refused one, every second group in turn."""
    waves: list[Wave] = []
    groups = range(len(plan.large), len(plan.sizes))
    for number in range(plan.pairs * 4):
        is_entry, pair = number % 2 == 0, number // 4
        for group in groups:
            has_refused = (group + number // 2) % 2 == 1
            bad = crowd.of_group(group)[0]
            if has_refused:
                crowd.refuse(bad)
            waves.append(Wave(group, is_entry, has_refused, time.time_ns() // 1_000_000, pair))
            seconds, times = (SMALL_IN_S, TURNS) if is_entry else (SMALL_OUT_S, 1)
            load.run(seconds, 0, [crowd.markets[group]], times)
            if has_refused:
                crowd.mend(bad)
    return waves


def _states(running: Deployment, began: dict[Slot, tuple[int, int]]) -> dict[str, float]:
    """States that trade wrote meanwhile; one that is written must differ from the one before it."""
    last: dict[str, bytes] = {}
    written = unchanged = 0
    for slot, (first, end) in began.items():
        if slot.topic != "account-states":
            continue
        for record in read_range(running.log, {slot: first}):
            state = topics.decode("account-states", record.value)
            if record.offset >= end:
                written += 1
                unchanged += last.get(state.account) == bytes(state.state)
            last[state.account] = bytes(state.state)
    return {"states written": float(written), "unchanged states written": float(unchanged)}


def _waits(
    crowd: Crowd, waves: Sequence[Wave], began: dict[Slot, tuple[int, int]], tap: Tap, large: int
) -> dict[str, float]:
    """From an intent's append to its order's first byte, of the accounts whose key was good all the time; the first
    `large` waves are those of large groups. An entry that waited for too long is told as expired instead.
    """
    sent_ms = {name.split("-")[1]: ms for name, ms in sorted(tap.first_ms.items(), reverse=True)}
    paired = {wave.group for wave in waves[large:]}
    own, bad = set(crowd.names), {crowd.of_group(group)[0] for group in paired}
    starts = np.array([wave.began_ms for wave in waves])
    by_wave: dict[int, list[float]] = {}
    told = _told_expired(crowd.running, began)
    missing = expired = 0
    for intent, append_ms in _intents(crowd.running, began):
        if intent.account in bad or intent.account not in own:
            continue
        number = int(np.searchsorted(starts, append_ms, side="right")) - 1
        if number >= 0 and intent.id in sent_ms:
            by_wave.setdefault(number, []).append(sent_ms[intent.id] - append_ms)
        expired += intent.id not in sent_ms and intent.id in told
        missing += intent.id not in sent_ms and intent.id not in told
    full = [ms for n, found in by_wave.items() if n < large for ms in found]
    good, refused = (
        [ms for n, found in by_wave.items() if n >= large and waves[n].has_refused == flag for ms in found]
        for flag in (False, True)
    )
    wanted = sum(len(crowd.of_group(wave.group)) - (wave.group in paired) for wave in waves)
    return {
        **percentiles("wait in a large group", full),
        **percentiles("wait of the others, all keys good", good),
        **percentiles("wait of the others, one key refused", refused),
        **_paired(waves[large:], {number - large: found for number, found in by_wave.items()}),
        "orders wanted": float(wanted),
        "orders": float(sum(map(len, by_wave.values()))),
        "orders told as too late": float(expired),
        "orders missing": float(missing),
    }


def _intents(running: Deployment, began: dict[Slot, tuple[int, int]]) -> Iterator[tuple[OrderIntent, int]]:
    ends = {slot: end for slot, (_, end) in began.items() if slot.topic == "order-intents"}
    for record in read_range(running.log, ends):
        intent = topics.decode("order-intents", record.value)
        if isinstance(intent, OrderIntent):
            yield intent, record.append_ms


def _told_expired(running: Deployment, began: dict[Slot, tuple[int, int]]) -> set[str]:
    """Intents of which the executor has told that they came too late."""
    ends = {slot: end for slot, (_, end) in began.items() if slot.topic == "order-events"}
    events = (topics.decode("order-events", record.value) for record in read_range(running.log, ends))
    return {event.intent_id for event in events if isinstance(event, OrderExpired)}


def _paired(waves: Sequence[Wave], by_wave: dict[int, list[float]]) -> dict[str, float]:
    """Over pairs of waves of the same kind and group: the median wait with a refused key less that without, in the mean
    and with its 95 % interval.
    """
    pairs: dict[tuple[int, bool, int], dict[bool, float]] = {}
    for number, wave in enumerate(waves):
        if found := by_wave.get(number):
            pairs.setdefault((wave.group, wave.is_entry, wave.pair), {})[wave.has_refused] = float(np.median(found))
    differences = np.array([pair[True] - pair[False] for pair in pairs.values() if len(pair) == 2])
    if len(differences) < 2:
        return {f"wait added by a refused key{name} ms": NEVER_MS for name in ("", ", from", ", to")}
    mean = float(differences.mean())
    half = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    values = {"": mean, ", from": mean - half, ", to": mean + half}
    return {f"wait added by a refused key{name} ms": round(value, 2) for name, value in values.items()}
