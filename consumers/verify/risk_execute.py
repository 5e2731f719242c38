"""One sequence of `verify risk` for the executor: orders by lot through its own limits, every answer against an oracle.

Called by `consumers.verify.risk`. The limits read either plain lists or, in every some sequences, the real journal.
"""

import time
from decimal import Decimal
from random import Random

from consumers.execute.journal import Journal
from consumers.execute.limits import RiskGate, RiskLimits
from consumers.verify.risk_accounts import EXCHANGE, MARKETS, limits_of, market_of
from consumers.verify.risk_books import Books, JournalBook, ListBook
from consumers.verify.risk_execute_oracle import WORDS, Event, broken
from consumers.verify.risk_trade import START_MS, Tally
from streams import messages as m

FEE = Decimal("0.0005")
JUMPS_MS = (0, 100, 100, 1000, 5000, 30_000, 8 * 3_600_000)


class ExecuteSequence:
    """Orders of two accounts, and what happens to them."""

    def __init__(self, seed: int, tally: Tally, journal: Journal | None = None) -> None:
        self.random = random = Random(seed)  # noqa: S311 - a sequence that can be made again
        self._seed, self._tally = seed, tally
        self._now_ms = START_MS + random.randrange(86_400) * 1000
        self._limits = RiskLimits(
            Decimal(random.choice((9000, 1_000_000))), random.choice((4, 120)), random.choice((6, 20_000)),
            Decimal(random.choice((20_000, 10**7))), Decimal(random.choice((30_000, 10**8))), Decimal(10),
        )  # fmt: skip
        self._book: Books = ListBook(self._wall_ms) if journal is None else JournalBook(journal, self._wall_ms)
        self._gate = RiskGate(self._limits, lambda: self._now_ms / 1000, self._book)
        self._events: list[Event] = [("time", self._now_ms)]
        self._open: list[m.OrderIntent] = []
        self._waiting: list[m.OrderIntent] = []
        self._prices: dict[str, Decimal] = {}
        self._count = 0

    def _wall_ms(self) -> int:
        return self._now_ms

    def run(self, length: int) -> None:
        """Let `length` events happen."""
        steps = (self._come, self._ask, self._fill, self._end, self._price, self._facts, self._settings, self._time)
        while len(self._events) < length:
            self.random.choices(steps, (25, 25, 15, 8, 10, 4, 4, 9))[0]()
        self._tally.events += len(self._events)

    def _happens(self, kind: str, one: object) -> None:
        self._events.append((kind, one))

    def _come(self) -> None:
        """An intent: an entry, a person's order, or (never asked about) an exit."""
        random = self.random
        purpose: m.Purpose = random.choice(("entry", "entry", "entry", "manual", "exit"))
        side: m.Side = "sell" if purpose == "exit" or (purpose == "manual" and random.random() < 0.4) else "buy"
        market = random.choice(list(MARKETS))
        price = Decimal(repr(MARKETS[market])) * random.choice((Decimal(1), Decimal("1.2"), Decimal("0.7")))
        quantity = (Decimal(random.choice((6000, 10_000, 4000))) / price).quantize(Decimal("0.00000001"))
        funds = Decimal(random.choice((6000, 6000, 8000, 15_000, 4000, 0)))
        is_limit = purpose != "exit" and random.random() < 0.3
        self._count += 1
        intent = m.OrderIntent(
            id=f"s{self._seed}-{self._count}", account=f"s{self._seed}-{random.choice('ab')}", pocket="p",
            exchange=EXCHANGE, market=market, side=side,
            order_type="limit" if is_limit else ("market" if side == "sell" else "price"),
            price=price if is_limit else None, quantity=quantity if is_limit or side == "sell" else None,
            funds=None if is_limit or side == "sell" else funds, time_in_force="", purpose=purpose,
            cause_kind="request" if purpose == "manual" else "signal", cause_id="c", event_ms=self._now_ms,
            expires_ms=self._now_ms + 5000, reason="",
        )  # fmt: skip
        self._book.came(intent)
        self._happens("came", intent)
        self._waiting.append(intent)

    def _ask(self) -> None:
        if not self._waiting:
            return
        intent = self._waiting.pop(self.random.randrange(len(self._waiting)))
        name = "" if intent.purpose == "exit" else self._answer(intent)
        if name:
            self._book.ended(intent, was_sent=False)
            self._happens("ended", intent.id)
            return
        self._book.sent(intent)
        self._happens("sent", intent.id)
        self._open.append(intent)

    def _answer(self, intent: m.OrderIntent) -> str:
        """Ask the limits and hold their answer against the oracle."""
        started = time.perf_counter_ns()
        refusal = self._gate.refusal(intent)
        if refusal is None and isinstance(self._book, JournalBook):
            self._tally.times_us.append((time.perf_counter_ns() - started) / 1000)
        name = "" if refusal is None else refusal.name
        words, unsure = broken(self._events, intent, self._limits)
        self._happens("asked", (intent, name))
        self._tally.decisions += 1
        self._tally.checked += 1
        self._tally.entries += not name
        self._tally.reasons[name or "sent"] += 1
        in_order = [word for word in WORDS if word in words]
        earlier = set(in_order[: in_order.index(name)]) if name in in_order else set(in_order)
        wrong = earlier - unsure if name in {"", *words, *unsure} else {f"not {name}"}
        if wrong:
            self._tally.violations.append(f"sequence {self._seed}: {name or 'sent'}, but {sorted(wrong)}")
        return name

    def _fill(self) -> None:
        if not self._open:
            return
        intent = self.random.choice(self._open)
        price = intent.price or self._prices.get(intent.market) or Decimal(repr(MARKETS[intent.market]))
        done = [one[1:] for kind, one in self._events if kind == "fill" and one[0] == intent.id]
        part = Decimal(self.random.choice(("1", "0.5", "0.3")))
        if intent.funds is not None:
            left = (intent.funds - sum((one[1] for one in done), Decimal(0))) * part
            quantity = (left / price).quantize(Decimal("0.00000001"))
        else:
            quantity = ((intent.quantity or Decimal(0)) - sum((one[0] for one in done), Decimal(0))) * part
        if quantity <= 0:
            return
        funds = quantity * price
        self._book.fill(intent, quantity, funds, funds * FEE)
        self._happens("fill", (intent.id, quantity, funds, funds * FEE))

    def _end(self) -> None:
        if self._open:
            intent = self._open.pop(self.random.randrange(len(self._open)))
            self._book.ended(intent, was_sent=True)
            self._happens("ended", intent.id)

    def _price(self) -> None:
        market = self.random.choice(list(MARKETS))
        price = Decimal(repr(MARKETS[market])) * self.random.choice((Decimal("0.9"), Decimal(1), Decimal("1.05")))
        self._prices[market] = price
        self._gate.take_price(market, price)
        self._happens("price", (market, price))

    def _facts(self) -> None:
        facts = market_of(self.random.random(), self.random.choice(list(MARKETS)), self._now_ms)
        self._gate.take_market(facts)
        self._happens("market", facts)

    def _settings(self) -> None:
        random = self.random
        settings = m.AccountSettings(
            account=f"s{self._seed}-{random.choice('ab')}", pocket="p", venue="paper", is_trading=True,
            budget=Decimal(random.choice((10_000, 25_000, 10**6))), entry_funds=Decimal(6000),
            threshold_percent=Decimal(0), fee_percent=random.choice((Decimal("0.05"), Decimal(0))),
            stop_percent=Decimal(1), hysteresis_percent=Decimal(0), horizons_ms=[5000], markets=[],
            limits=limits_of(random),
        )  # fmt: skip
        self._gate.take_account(settings)
        self._happens("settings", settings)

    def _time(self) -> None:
        self._now_ms += self.random.choice(JUMPS_MS)
        self._happens("time", self._now_ms)
