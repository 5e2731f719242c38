"""`observator verify journal`: the sandbox exchange killed under load, again and again, and asked what it remembers.

Each trial lets several signed clients send orders of all kinds, ends the process with `kill -9` at a random moment or
at a named crash point, starts it again and holds everything that was told against the exchange's own truth. Lost: told
and no longer known, or known in an earlier state. Doubled: an identifier with two orders, or one that is free again.
"""

import json
import random
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, localcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from consumers.execute.verify_stage import Sandbox
from consumers.verify.journal_clients import TIMEOUT_S, Client
from consumers.verify.told import Told
from infra.figures import result_of

TRIALS = 100
QUICK_TRIALS = 3
CLIENTS = 6
QUICK_CLIENTS = 3
FEE = Decimal("0.0005")
CASH = "100000000000"
COINS = "10000000"
ENDS_S = 5.0
"""Within this time a cancel that was accepted before the kill has to come true after it."""
AGAIN = 4
"""Identifiers of each client that are sent again after each restart."""
CRASHES: tuple[dict[str, str], ...] = (
    {"name": "crash-before", "method": "POST", "path": "/v1/orders"},
    {"name": "crash-after", "method": "POST", "path": "/v1/orders"},
    {"name": "crash-unwritten", "method": "POST", "path": "/v1/orders"},
    {"name": "crash-halfway", "method": "POST", "path": "/v1/orders"},
    {"name": "crash-after", "method": "DELETE", "path": "/v1/order"},
    {"name": "crash-halfway", "method": "DELETE", "path": "/v1/orders/open"},
    {"name": "crash-halfway", "method": "POST", "path": "/v1/orders/cancel_and_new"},
    {"name": "crash-after", "method": "POST", "path": "/v1/orders/cancel_and_new"},
)
"""Every second trial ends at one of these, the others at a random moment."""


@dataclass(slots=True)
class Score:
    """What was seen over all trials."""

    crashes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    went_back: int = 0
    cancels_forgotten: int = 0
    doubled: int = 0
    free_again: int = 0
    ledgers: int = 0
    restart_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep the first few problems."""
        if len(self.problems) < 20:
            self.problems.append(text)


class Trials:
    """Runs trials on one sandbox and keeps the score."""

    def __init__(self, sandbox: Sandbox, clients: int, rng: random.Random) -> None:
        self._sandbox = sandbox
        self._rng = rng
        self.score = Score()
        ticks = _ticks(sandbox)
        self._balances = {"KRW": CASH} | {market.partition("-")[2]: COINS for market in ticks}
        port = int(sandbox.url.rpartition(":")[2])
        self.clients = []
        for number in range(clients):
            body = {"access_key": f"load{number}", "balances": self._balances}
            made = sandbox.control("POST", "/sandbox/accounts", body)
            client = Client(port, f"load{number}", str(made["secret_key"]), ticks, rng.randrange(2**32))
            client.meet(sandbox.prices)
            self.clients.append(client)

    def run(self, number: int) -> None:
        """One trial: load, kill, restart, judgement."""
        crash = CRASHES[number // 2 % len(CRASHES)] if number % 2 else None
        with _running(self.clients):
            time.sleep(self._rng.uniform(0.6, 2.0))
            if crash is not None:
                self._sandbox.control("POST", "/sandbox/faults", crash)
                self._wait_for_the_end(10.0)
            name = "kill" if crash is None or not self._sandbox.has_died else " ".join(crash.values())
            self.score.crashes[name] += 1
            self._sandbox.kill()
        began_s = time.monotonic()
        self._sandbox.start()
        self.score.restart_s.append(time.monotonic() - began_s)
        self._judge()
        with ThreadPoolExecutor(len(self.clients)) as pool:
            freed = list(pool.map(self._freed, self.clients, [self._rng.randrange(2**32) for _ in self.clients]))
        for told in (told for rows in freed for told in rows):
            self.score.free_again += 1
            self.score.note(f"free again: {told}")

    def _wait_for_the_end(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not self._sandbox.has_died and time.monotonic() < end_s:
            time.sleep(0.01)

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        truth = self._sandbox.control("GET", "/sandbox/truth")
        self._judge_orders(truth)
        self._judge_identifiers(truth)
        self._judge_ledger(truth)
        self._judge_cancels()

    def _judge_orders(self, truth: dict[str, Any]) -> None:
        rows = {row["uuid"]: row for row in truth["orders"]}
        fills: defaultdict[str, set[str]] = defaultdict(set)
        for fill in truth["fills"]:
            fills[fill["order"]].add(fill["uuid"])
        for client in self.clients:
            for told in client.told:
                if not told.uuid:
                    continue
                row = rows.get(told.uuid)
                if row is None and not told.is_replacement:
                    self.score.lost += 1
                    self.score.note(f"lost: {told}")
                elif row is not None and not _is_same_or_later(row, fills[told.uuid], told):
                    self.score.went_back += 1
                    self.score.note(f"went back: {told}, now {row}")

    def _judge_identifiers(self, truth: dict[str, Any]) -> None:
        counts = Counter((row["account"], row["identifier"]) for row in truth["orders"] if row["identifier"])
        for key, count in counts.items():
            if count > 1:
                self.score.doubled += 1
                self.score.note(f"{key} has {count} orders")

    def _judge_ledger(self, truth: dict[str, Any]) -> None:
        found = {
            (row["account"], row["currency"]): (Decimal(row["balance"]), Decimal(row["locked"]))
            for row in truth["balances"]
            if row["account"].startswith("load")
        }
        wanted = recomputed(truth["orders"], [client.access_key for client in self.clients], self._balances)
        for key in found.keys() | wanted.keys():
            if found.get(key) != wanted.get(key):
                self.score.ledgers += 1
                self.score.note(f"{key} has {found.get(key)}, its orders say {wanted.get(key)}")

    def _judge_cancels(self) -> None:
        """Orders whose cancel was accepted end soon after the restart."""
        end_s = time.monotonic() + ENDS_S
        asked = {told.uuid for client in self.clients for told in client.told if told.is_cancelled and told.uuid}
        while True:
            truth = self._sandbox.control("GET", "/sandbox/truth")
            left = [row for row in truth["orders"] if row["uuid"] in asked and row["state"] == "wait"]
            if not left:
                return
            if time.monotonic() > end_s:
                self.score.cancels_forgotten += len(left)
                self.score.note(f"cancels forgotten: {left}")
                return
            time.sleep(0.1)

    def _freed(self, client: Client, seed: int) -> list[Told]:
        """Identifiers that can be used again though they were used: the newest ones and some of all are tried."""
        client.meet(self._sandbox.prices)
        known = [told for told in client.told if told.uuid or told.is_burned]
        rng = random.Random(seed)  # noqa: S311 - repeatable plans, no secret
        chosen = known[-2:] + rng.sample(known, min(AGAIN, len(known)))
        try:
            return [told for told in chosen if not client.use_again(told)]
        finally:
            client.close()


def recomputed(
    orders: Sequence[dict[str, Any]], accounts: Sequence[str], deposits: dict[str, str]
) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
    """(account, currency) -> (free, locked), from deposits and orders alone, by the documented arithmetic."""
    with localcontext(Context(prec=80, traps=[Inexact])):
        total = {(account, currency): Decimal(amount) for account in accounts for currency, amount in deposits.items()}
        locked: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for row in orders:
            if row["account"] not in accounts:
                continue
            quote, base = row["market"].split("-")
            sign = 1 if row["side"] == "bid" else -1
            executed, funds = Decimal(row["executed_volume"]), Decimal(row["executed_funds"])
            total[row["account"], base] += sign * executed
            total[row["account"], quote] -= sign * funds + funds * FEE
            if row["state"] == "wait":
                currency = quote if row["side"] == "bid" else base
                locked[row["account"], currency] += _locked(row, executed, funds)
        return {key: (amount - locked[key], locked[key]) for key, amount in total.items()}


def _locked(row: dict[str, Any], executed: Decimal, funds: Decimal) -> Decimal:
    """What an open order sets aside; what self-match prevention took out of it is free."""
    prevented = Decimal(row["prevented_volume"])
    if row["side"] == "ask":
        return Decimal(row["volume"]) - executed - prevented
    price = Decimal(row["price"])
    if row["ord_type"] != "limit":
        return price * (1 + FEE) - funds * (1 + FEE) - Decimal(row["prevented_locked"])
    left = Decimal(row["volume"]) - executed - prevented
    fee_left = price * (Decimal(row["volume"]) - prevented) * FEE - funds * FEE
    return left * price + fee_left


def _is_same_or_later(row: dict[str, Any], fills: set[str], told: Told) -> bool:
    is_state_kept = told.state == "wait" or row["state"] == told.state
    return is_state_kept and Decimal(row["executed_volume"]) >= told.executed and told.fills <= fills


def _ticks(sandbox: Sandbox) -> dict[str, Decimal]:
    markets = ",".join(sorted(sandbox.prices))
    address = f"{sandbox.url}/v1/orderbook/instruments?markets={markets}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - an address on this machine
        return {row["market"]: Decimal(row["tick_size"]) for row in json.loads(answer.read())}


@contextmanager
def _running(clients: Sequence[Client]) -> Iterator[None]:
    """All clients send and listen meanwhile."""
    stop = threading.Event()
    threads = [threading.Thread(target=client.load, args=(stop,)) for client in clients]
    threads += [threading.Thread(target=client.listen, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)


def verify_journal(trials: int = TRIALS, *, quick: bool = False, seed: int = 5) -> dict[str, object]:
    """Run the trials; passes where nothing that was told is lost, went back, doubled or differs."""
    count = min(trials, QUICK_TRIALS) if quick else trials
    clients = QUICK_CLIENTS if quick else CLIENTS
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="observator-journal-") as home:
        sandbox = Sandbox(Path(home))
        try:
            sandbox.start()
            runner = Trials(sandbox, clients, random.Random(seed))  # noqa: S311 - repeatable plans, no secret
            for number in track(range(count), "trials", console=Console(file=sys.stderr), disable=quick):
                runner.run(number)
        finally:
            sandbox.close()
    return _result(runner, {"quick": quick, "seed": seed, "clients": clients}, count, time.monotonic() - began_s)


def _result(runner: Trials, conditions: dict[str, object], trials: int, seconds: float) -> dict[str, object]:
    score, clients = runner.score, runner.clients
    answers = sum((client.answers for client in clients), Counter[str]())
    told = [told for client in clients for told in client.told]
    doubled = score.doubled + sum(client.doubled for client in clients)
    figures: dict[str, float] = {
        "trials": trials,
        "accepted": sum(bool(one.uuid) for one in told),
        "refused": sum(bool(one.refused) for one in told),
        "without an answer": sum(not one.uuid and not one.refused for one in told),
        "messages heard": sum(client.messages for client in clients),
        "lost": score.lost,
        "went back": score.went_back,
        "cancels forgotten": score.cancels_forgotten,
        "identifiers doubled": doubled,
        "identifiers free again": score.free_again,
        "ledgers differing": score.ledgers,
        "mean seconds of restart": round(sum(score.restart_s) / len(score.restart_s), 2),
        "worst seconds of restart": round(max(score.restart_s), 2),
        "seconds": round(seconds, 1),
    }
    figures |= {f"ended by {name}": number for name, number in sorted(score.crashes.items())}
    figures |= {f"answer {name}": number for name, number in sorted(answers.items())}
    bad = score.lost + score.went_back + score.cancels_forgotten + doubled + score.free_again + score.ledgers
    conditions |= {"problems": score.problems or "none"}
    return result_of("journal", figures, conditions, passed=not bad and figures["accepted"] > trials)
