"""One sequence of `verify risk` for `trade`: events by lot through the real fold, decisions against the oracle.

Called by `consumers.verify.risk`. An entry must break nothing; a refusal for a limit must be that limit's, and no
earlier one may hold.
"""

import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from random import Random

from consumers.trade import entries, risk
from consumers.trade.day import turn_day
from consumers.trade.fold import Fold, Output
from consumers.trade.glance import Glance
from consumers.trade.ledgers import ledger_key
from consumers.trade.rules import plan_of
from consumers.trade.state import Account, Bin, Parameters, money_context
from consumers.verify.risk_accounts import (
    EXCHANGE,
    MARKETS,
    busy_settings,
    features_of,
    market_of,
    quote_of,
    settings_of,
    signal_of,
)
from consumers.verify.risk_oracle import FORBIDDEN, LIMITS, Event, Question, answer
from consumers.verify.risk_orders import Told, filled
from models.strategies.registry import STRATEGIES
from streams import messages as m

START_MS = 1_763_650_000_000
JUMPS_MS = (0, 0, 200, 1000, 1000, 2500)


class Tally:
    """What all sequences came to."""

    def __init__(self) -> None:
        self.events = self.decisions = self.entries = self.checked = 0
        self.reasons: Counter[str] = Counter()
        self.violations: list[str] = []
        self.times_us: list[float] = []
        self.times_without_us: list[float] = []


class TradeSequence:
    """Accounts, two markets, and what happens to them."""

    def __init__(self, seed: int, tally: Tally) -> None:
        self.random = random = Random(seed)  # noqa: S311 - a sequence that can be made again
        self._seed, self._tally = seed, tally
        self._parameters = Parameters(
            capacity_percent=Decimal(random.choice((1, 5, 20))),
            turn_accounts=random.choice((1, 2, 10)),
            longest_turns=random.choice((2, 3)),
            is_warm_up_expected=random.random() < 0.05,
        )
        self._fold = Fold(self._parameters, money_context())
        self._events: list[Event] = []
        self._now_ms = START_MS + random.randrange(86_400) * 1000
        self._mids = dict(MARKETS)
        self._orders: list[Told] = []
        self._told: list[m.OrderEvent] = []
        self._is_busy = seed % 100 == 0
        self._count = 1 if self._is_busy else random.choice((1, 2, 3, 5))
        for number in range(self._count):
            self._take(busy_settings(self._now_ms) if self._is_busy else settings_of(random, number, self._now_ms))

        for market in MARKETS if random.random() < 0.8 else ():
            self._take(market_of(1.0, market, self._now_ms))

    def run(self, length: int) -> None:
        """Let `length` events happen; in some sequences many more orders, for what counts a day's."""
        steps = (self._bin, self._order, self._pulse, self._will, self._limit_entry, self._settings)
        weights = (45, 40, 3, 0, 0, 0) if self._is_busy else (44, 34, 6, 8, 6, 2)
        until = self._tally.events + (length * 6 if self._is_busy else length)
        while self._tally.events < until:
            self._now_ms += self.random.choice(JUMPS_MS)
            self.random.choices(steps, weights)[0]()

    # --- what happens

    def _bin(self) -> None:
        """A bin of a market, mostly with its forecasts."""
        random, market = self.random, self.random.choice(list(MARKETS))
        self._mids[market] *= 1 + random.choice((-1, 1)) * random.choice((0.0, 1e-4, 1e-3, 2e-2))
        self._now_ms = bin_ms = -(-self._now_ms // 1000) * 1000 + 1000
        if random.random() < 0.03:
            self._advance(bin_ms + 5000)
        if random.random() < 0.93:
            self._take(features_of(random, market, self._mids[market], bin_ms))
        horizons = (5000,) if self._is_busy else random.choice(((5000,), (5000,), (5000, 10_000), (10_000,)))
        for horizon_ms in horizons if random.random() < 0.9 else ():
            signal = signal_of(random, market, self._mids[market], bin_ms, horizon_ms)
            if random.random() < 0.1:
                self._measure(signal)
            self._take(signal)

    def _order(self) -> None:
        """The next of an open order; at times one event again, or a person's own order."""
        random, is_open = self.random, [one for one in self._orders if one.is_open]
        lot = random.random()
        if lot < 0.06 and self._told:
            self._take(random.choice(self._told))
        elif lot < 0.09:
            self._person()
        elif is_open:
            one = random.choice(is_open)
            mid = Decimal(repr(round(self._mids[one.intent.market], 2)))
            event = one.next(random, mid, self._now_ms)
            self._told.append(event)
            self._take(event)

    def _person(self) -> None:
        random, number = self.random, self.random.randrange(self._count)
        market, is_known = random.choice(list(MARKETS)), random.random() < 0.93
        price = Decimal(repr(round(self._mids[market], 2)))
        quantity = (Decimal(random.choice((5000, 9000))) / price).quantize(Decimal("0.0001"))
        pocket = self._fold.state.accounts[f"a{number}"].settings.pocket
        self._take(
            filled(
                f"a{number}", pocket, f"person-{self._now_ms}-{len(self._events)}", market,
                random.choice(("buy", "sell")), None, quantity, price, self._now_ms,
                purpose="manual" if is_known else "entry",
            )
        )  # fmt: skip

    def _pulse(self) -> None:
        self._advance(self._now_ms + self.random.choice((1000, 1000, 4000, 20_000, 30_000, 6 * 3_600_000)))
        for market in MARKETS if self.random.random() < 0.3 else ():
            self._take(quote_of(self.random, market, self._mids[market], self._now_ms))

    def _advance(self, now_ms: int) -> None:
        self._now_ms = now_ms
        bins = self._fold.state.shared.bins.items()
        waiting = [(key, found.bin_ms) for key, found in bins if not found.is_closed]
        before = self._decided()
        outputs = self._fold.pulse(now_ms)
        self._tally.events += 1
        self._events.append(("pulse", now_ms))
        self._check(outputs, before, waiting)

    def _settings(self) -> None:
        self._take(settings_of(self.random, self.random.randrange(self._count), self._now_ms))

    def _will(self) -> None:
        random, account, now_ms = self.random, self.random.choice(("*", "a0", "a1")), self._now_ms
        lot = random.random()
        if lot < 0.3:
            self._take(market_of(random.random(), random.choice(list(MARKETS)), self._now_ms))
        elif lot < 0.42:
            self._take(
                m.Halt(account=account, kind=random.choice(("no-new-orders", "sell-all")), event_ms=now_ms, by="lot")
            )
        elif lot < 0.75:
            for name in ("*", "a0", "a1"):
                self._take(m.Halt(account=name, kind="lifted", event_ms=self._now_ms, by="lot"))
        elif lot < 0.78:
            self._take(m.TradingStopped(account=account, event_ms=now_ms, by="lot"))
        elif lot < 0.87:
            self._take(m.TradingStarted(account=account, event_ms=now_ms, by="lot"))
        elif lot < 0.9:
            self._take(m.AccountPaused(account="a0", pocket="p0", reason="coins-moved", text="", event_ms=self._now_ms))
        elif lot < 0.97:
            self._take(m.AccountResumed(account=account, event_ms=now_ms, by="lot"))
        else:
            self._take(m.Warmed(event_ms=self._now_ms, by="lot"))

    def _limit_entry(self) -> None:
        """A limit entry, as a strategy could want one: asked of the limits alone."""
        random = self.random
        account = random.choice(list(self._fold.state.accounts.values()))
        market = random.choice(list(MARKETS))
        price = Decimal(repr(round(self._mids[market] * random.choice((0.95, 0.995, 0.9995, 1.0)), 2)))
        bin_ms = self._now_ms // 1000 * 1000
        wanted = risk.Wanted(EXCHANGE, market, account.settings.entry_funds, bin_ms, price)
        with localcontext(money_context()):
            turn_day(account, self._fold.state.shared)
            found = risk.refusal(account, wanted, self._fold.crowd, self._parameters)
        name = account.settings.account
        self._events.append(("asked", name))
        question = Question(name, EXCHANGE, market, Fraction(wanted.funds), bin_ms, Fraction(price))
        self._judge(question, str(found or ""), is_whole=False)

    # --- checking

    def _decided(self) -> dict[tuple[str, str], int]:
        return {(name, key): at for name, one in self._fold.state.accounts.items() for key, at in one.decided.items()}

    def _take(self, message: object) -> None:
        before, places = self._decided(), self._places(message) if isinstance(message, m.Signal) else []
        outputs = self._fold.take(message)  # type: ignore[arg-type]  # one of the inputs
        self._tally.events += 1
        self._events.append(("take", message))
        self._check(outputs, before, places)

    def _places(self, signal: m.Signal) -> list[tuple[str, int]]:
        """Where a signal may let accounts decide: first on the bin that it ends, then on its own."""
        key = m.key_of(signal.exchange, signal.market)
        found = self._fold.state.shared.bins.get(key)
        is_ended = found is not None and not found.is_closed and found.bin_ms < signal.bin_ms
        return [*([(key, found.bin_ms)] if found is not None and is_ended else []), (key, signal.bin_ms)]

    def _check(
        self, outputs: Sequence[Output], before: dict[tuple[str, str], int], places: list[tuple[str, int]]
    ) -> None:
        """Go through the decisions in their order; the outputs become events as they were made."""
        left = list(outputs)
        for key, bin_ms in places:
            for account in self._fold.crowd.in_turn(key, bin_ms):
                name = account.settings.account
                if before.get((name, key), -1) < bin_ms <= account.decided.get(key, -1):
                    self._events.append(("asked", name))
                    self._check_account(account, key, bin_ms, left)
        for output in left:
            self._note(output)
            if isinstance(output, m.Veto):
                self._tally.reasons[output.reason] += output.reason in {"exit-refused", "stale-position"}

    def _check_account(self, account: Account, key: str, bin_ms: int, left: list[Output]) -> None:
        """Judge what an account decided on a bin; where it decided on a newer one since, only entries are known."""
        name, is_newest = account.settings.account, account.decided[key] == bin_ms
        for rule in plan_of(account.settings, STRATEGIES).rules.values():
            mine = [one for one in left if _is_of(one, name, rule.id, key) and (is_newest or one.event_ms == bin_ms)]
            is_entered = False
            for output in mine:
                left.remove(output)
                if isinstance(output, m.OrderIntent) and output.purpose == "entry":
                    is_entered = True
                    self._entry(name, output)
                self._note(output)
            if not is_entered and is_newest:
                reason = account.reasons.get(ledger_key(rule.id, key), "")
                market = key.partition(":")[2]
                self._judge(Question(name, EXCHANGE, market, Fraction(rule.entry_funds), bin_ms), reason, is_whole=True)

    def _entry(self, name: str, intent: m.OrderIntent) -> None:
        self._tally.entries += 1
        funds = Fraction(intent.funds or 0)
        self._judge(Question(name, EXCHANGE, intent.market, funds, intent.event_ms), "", is_whole=True)

    def _judge(self, question: Question, reason: str, *, is_whole: bool) -> None:
        """Hold one decision against the oracle; a reason that is no limit's needs no limit to be broken."""
        self._tally.decisions += 1
        self._tally.reasons[str(reason) or "entered"] += 1
        if reason and reason not in {*FORBIDDEN, *LIMITS}:
            return
        self._tally.checked += 1
        found = answer(self._events, question, self._parameters)
        order = (*FORBIDDEN, *LIMITS) if is_whole else LIMITS
        broken = [word for word in order if word in found.broken]
        if not reason:
            wrong = set(broken) - found.unsure
        elif reason in LIMITS:
            earlier = {word for word in broken[: broken.index(reason)] if word in LIMITS} if reason in broken else set()
            wrong = (earlier - found.unsure) if reason in {*broken, *found.unsure} else {f"not {reason}"}
        else:
            wrong = set() if reason in broken else {f"not {reason}"}
        if wrong:
            self._tally.violations.append(f"sequence {self._seed}: {reason or 'entered'}, but {sorted(wrong)}")

    def _note(self, output: Output) -> None:
        if isinstance(output, m.OrderIntent):
            self._orders.append(Told(output))
        if not isinstance(output, m.Veto):
            self._events.append(("out", output))

    # --- what it costs

    def _measure(self, signal: m.Signal) -> None:
        """Time a decision that enters, with and without the limits."""
        key = m.key_of(signal.exchange, signal.market)
        shared = self._fold.state.shared
        glance = Glance(key, Bin(bin_ms=signal.bin_ms, signals={signal.horizon_ms: signal}), shared)
        for account in self._fold.state.accounts.values():
            plan = plan_of(account.settings, STRATEGIES)
            for rule in plan.rules.values():
                asked = account, plan, rule, glance, self._fold.crowd, self._parameters
                with localcontext(money_context()):
                    if entries.judge(*asked).reason:
                        continue
                    first = time.perf_counter_ns()
                    entries.judge(*asked)
                    second = time.perf_counter_ns()
                    entries.judge(*asked, steps=entries.STEPS[:-1])
                    third = time.perf_counter_ns()
                self._tally.times_us.append((second - first) / 1000)
                self._tally.times_without_us.append((third - second) / 1000)


def _is_of(output: Output, account: str, strategy: str, key: str) -> bool:
    if output.account != account:
        return False
    if isinstance(output, m.CancelIntent):
        return False
    return output.strategy == strategy and m.key_of(output.exchange, output.market) == key
