"""`observator bench accounts`: a thousand accounts on one signal stream, each with its own pocket at the exchange.

Accounts come in groups of which each trades one market, so that a strong forecast there affects exactly that group.
Measured are CPU and memory of trade and execute per 100 affected accounts, the states that trade writes, and, wave by
wave in pairs, whether one account whose key the exchange refuses makes the others wait.
"""

import json
import logging
import time
import urllib.request
from collections.abc import Sequence
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
from streams.messages import OrderIntent

logger = logging.getLogger(__name__)

GROUPS, QUICK_GROUPS = 10, 5
ACCOUNTS, QUICK_ACCOUNTS = 1_000, 50
WAVE_S, QUICK_WAVE_S = 10, 7
TURNS = 6
"""Seconds in which entries are wanted: many accounts take turns in a market, over five bins at most."""
IDLE_S = 40
ROUNDS = 4
"""In, out, in, out: each group once with all keys good and once with a refused one, in both directions."""
MOST_ADDED_MS = 40.0
"""Upper end of the interval of what a refused key adds, as long as the whole way from signal to order may take: a wider
interval says nothing."""
CASH = "1000000"
PROCESSES = ("trade", "execute")


class Wave(NamedTuple):
    """One strong forecast: the group it affected, and whether one of its keys was refused."""

    group: int
    is_entry: bool
    has_refused: bool
    began_ms: int


class Use(NamedTuple):
    """What the two processes used so far, or hold now."""

    cpu_s: dict[str, float]
    mb: dict[str, float]


class Crowd:
    """The accounts, their keys and the load on one deployment."""

    def __init__(self, running: Deployment, count: int, groups: int) -> None:
        self.running = running
        self.names = [f"crowd-{number:04d}" for number in range(count)]
        self.groups = groups
        self.port = port_of(running.settings.home, "sandbox")
        self.markets = markets_of(self.port, groups)
        self._secrets: dict[str, str] = {}

    def of_group(self, group: int) -> list[str]:
        """The accounts that trade a group's market."""
        return self.names[group :: self.groups]

    def open(self) -> None:
        """Accounts at the exchange, their keys in files, their settings in the log."""
        token = (self._folder / "sandbox-control").read_text().strip()
        for name in self.names:
            self._secrets[name] = _opened(self.port, token, name)
            self._write(name, self._secrets[name])
        publish(
            self.running,
            *(
                account(name, name, budget=Decimal(500_000), markets=[self.markets[number % self.groups]])
                for number, name in enumerate(self.names)
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
    count, groups, wave_s = (QUICK_ACCOUNTS, QUICK_GROUPS, QUICK_WAVE_S) if quick else (ACCOUNTS, GROUPS, WAVE_S)
    described: dict[str, Any] = {
        "feed": {"kind": "synthetic", "market_count": groups, "warmup_seconds": 0, "books_per_second": 1},
        "execute": {"orders_per_minute": 100_000, "orders_per_day": 1_000_000, "maximum_exposure": "1000000000"},
    }
    with deployment(described) as running:
        running.start("sandbox")
        crowd = Crowd(running, count, groups)
        books, tap = Books(crowd.port, crowd.markets), Tap(crowd.port)
        books.start()
        try:
            wait_until(lambda: len(books.levels) >= groups, 120, "books of every market")
            start(running, tap.port, "transaction")
            load = Load(running.log, crowd.markets, [], lambda market: books.levels.get(market, FLAT))
            figures = _measured(crowd, load, tap, wave_s)
            load.close()
        finally:
            books.close()
            tap.close()
    is_small = figures["wait added by a refused key, from ms"] <= 0 or figures["wait added by a refused key ms"] <= 1
    is_fair = is_small and figures["wait added by a refused key, to ms"] <= MOST_ADDED_MS
    is_met = is_fair and figures["unchanged states written"] == 0 and figures["orders missing"] == 0
    conditions = {"quick": quick, "accounts": count, "groups": groups, "rounds": ROUNDS, "seconds_per_wave": wave_s}
    return result_of("accounts", figures, conditions, passed=is_met)


def _measured(crowd: Crowd, load: Load, tap: Tap, wave_s: int) -> dict[str, float]:
    running, idle_s = crowd.running, wave_s * IDLE_S // WAVE_S
    load.run(3, 0)
    before = crowd.use()
    crowd.open()
    load.run(5, 0)
    opened, began = crowd.use(), running.bounds(["account-states", "order-intents"])
    load.run(idle_s, 0)
    idle = crowd.use()
    waves = _waves(crowd, load, wave_s)
    done = crowd.use()
    running.children.require_alive()
    seconds = len(waves) * wave_s
    affected = len(crowd.names) / crowd.groups
    figures = {"accounts": float(len(crowd.names)), "waves": float(len(waves)), "affected by a wave": affected}
    for name in PROCESSES:
        rest_s = (idle.cpu_s[name] - opened.cpu_s[name]) / idle_s * seconds
        extra_s = done.cpu_s[name] - idle.cpu_s[name] - rest_s
        figures |= {
            f"{name}: ms of CPU per 100 affected accounts": round(extra_s * 1000 / len(waves) / affected * 100, 1),
            f"{name}: share of a core while nobody is affected": round(rest_s / seconds, 3),
            f"{name}: MB per 100 accounts": round((opened.mb[name] - before.mb[name]) / len(crowd.names) * 100, 2),
            f"{name}: MB more per 100 affected accounts": round(
                (done.mb[name] - idle.mb[name]) / len(crowd.names) * 100, 2
            ),
        }
    return figures | _states(running, began) | _waits(crowd, waves, began, tap)


def _waves(crowd: Crowd, load: Load, wave_s: int) -> list[Wave]:
    """Every group enters and leaves; in each round every second group has a refused key, the other ones the next."""
    waves: list[Wave] = []
    for number in range(ROUNDS):
        is_entry = number % 2 == 0
        for group, market in enumerate(crowd.markets):
            has_refused = (group + number // 2) % 2 == 1
            bad = crowd.of_group(group)[0]
            if has_refused:
                crowd.refuse(bad)
            waves.append(Wave(group, is_entry, has_refused, time.time_ns() // 1_000_000))
            load.run(wave_s, 0, [market], TURNS if is_entry else 1)
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


def _waits(crowd: Crowd, waves: Sequence[Wave], began: dict[Slot, tuple[int, int]], tap: Tap) -> dict[str, float]:
    """From an intent's append to its order's first byte, of the accounts whose key was good all the time."""
    sent_ms = {name.split("-")[1]: ms for name, ms in sorted(tap.first_ms.items(), reverse=True)}
    bad = {crowd.of_group(group)[0] for group in range(crowd.groups)}
    starts = np.array([wave.began_ms for wave in waves])
    by_wave: dict[int, list[float]] = {}
    missing = 0
    for record in read_range(
        crowd.running.log, {s: end for s, (_, end) in began.items() if s.topic == "order-intents"}
    ):
        intent = topics.decode("order-intents", record.value)
        if not isinstance(intent, OrderIntent) or intent.account in bad:
            continue
        missing += intent.id not in sent_ms
        number = int(np.searchsorted(starts, record.append_ms, side="right")) - 1
        if number >= 0 and intent.id in sent_ms:
            by_wave.setdefault(number, []).append(sent_ms[intent.id] - record.append_ms)
    good, refused = ([ms for n, found in by_wave.items() if waves[n].has_refused == flag for ms in found] for flag in (False, True))  # fmt: skip # noqa: E501 - one sentence
    wanted = len(waves) * (len(crowd.names) // crowd.groups - 1)
    return {
        **percentiles("wait of the others, all keys good", good),
        **percentiles("wait of the others, one key refused", refused),
        **_paired(waves, by_wave),
        "orders": float(len(good) + len(refused)),
        "orders missing": float(missing + max(0, wanted - len(good) - len(refused))),
    }


def _paired(waves: Sequence[Wave], by_wave: dict[int, list[float]]) -> dict[str, float]:
    """Over pairs of waves of the same kind and group: the median wait with a refused key less that without, in the mean
    and with its 95 % interval.
    """
    pairs: dict[tuple[int, bool], dict[bool, float]] = {}
    for number, wave in enumerate(waves):
        if found := by_wave.get(number):
            pairs.setdefault((wave.group, wave.is_entry), {})[wave.has_refused] = float(np.median(found))
    differences = np.array([pair[True] - pair[False] for pair in pairs.values() if len(pair) == 2])
    if len(differences) < 2:
        return {f"wait added by a refused key{name} ms": NEVER_MS for name in ("", ", from", ", to")}
    mean = float(differences.mean())
    half = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    values = {"": mean, ", from": mean - half, ", to": mean + half}
    return {f"wait added by a refused key{name} ms": round(value, 2) for name, value in values.items()}
