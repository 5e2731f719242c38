"""The pure fold: one input changes the state and may give intents, cancels and vetoes.

Called by `consumers.trade.runner` (live) and `consumers.trade.replay` with the same inputs in the same order, and
gives the same output bytes. No clock, no randomness, no log, no settings object: time comes from bins and pulses, money
is computed in the decimal context that is passed in.
"""

from collections.abc import Callable, Collection
from decimal import Context, localcontext

from consumers.trade import alarms, entries, exits, people, positions, resting, risk, shadow
from consumers.trade.day import note_best, refuse, turn_day
from consumers.trade.entries import Verdict
from consumers.trade.glance import Glance
from consumers.trade.ledgers import ExitKind, Order, ledger_key, market_of
from consumers.trade.plans import Plans
from consumers.trade.rules import Plan, Rule, exits_of, leave_of
from consumers.trade.state import Account, Bin, Book, Facts, Parameters, State, book_of
from models.strategies.registry import STRATEGIES, Kinds
from models.strategies.rule import Holding
from streams import messages as m

Output = m.OrderIntent | m.CancelIntent | m.Veto
Input = m.Signal | m.Features | m.Quote | m.Market | m.Control | m.OrderEvent


def owns_all(_pocket: str) -> bool:
    """Say that every pocket is ours."""
    return True


class Fold:
    """The state and the one way to change it. `owns` says which pockets this process decides for."""

    def __init__(
        self,
        parameters: Parameters,
        context: Context,
        owns: Callable[[str], bool] = owns_all,
        state: State | None = None,
        kinds: Kinds = STRATEGIES,
    ) -> None:
        self.parameters = parameters
        self.context = context
        self.owns = owns
        self.state = State() if state is None else state
        self.is_complete = True
        """Whether every account is in the state; while one is put back, others having decided ends no bin."""
        self.is_restoring = False
        """Whether recorded inputs are folded again behind the accounts' snapshots. An account that entered was stored
        with its entry: what looks like an entry then was refused for another account, which is not back yet.
        """
        self.crowd = risk.Crowd(self.state)
        self.changed: set[str] = set()
        """Accounts with more than a count that changed since the runner looked last."""
        self.counted: set[str] = set()
        """Accounts that decided on a bin since then."""
        self.plans = Plans(kinds)

    def take(self, message: Input) -> list[Output]:
        """Take one record; messages that mean nothing to trade give nothing."""
        with localcontext(self.context):
            if isinstance(message, m.Signal):
                return self._on_signal(message)
            if isinstance(message, m.Features):
                return self._on_features(message)
            if isinstance(message, m.Quote):
                return self._on_quote(message)
            if isinstance(message, m.Market):
                self._on_market(message)
                return []
            if isinstance(message, m.Control):
                return self._on_control(message)
            return self._on_order_event(message)

    def pulse(self, event_ms: int) -> list[Output]:
        """Let market time pass: undecided bins are decided, horizons end, failed exits are tried again."""
        shared = self.state.shared
        if event_ms <= shared.pulse_ms:
            return []
        with localcontext(self.context):
            shared.pulse_ms = event_ms
            shared.now_ms = max(shared.now_ms, event_ms)
            outputs: list[Output] = []
            for key in [key for key, found in shared.bins.items() if not found.is_closed]:
                outputs += self._close_bin(key)
            for account in self.state.accounts.values():
                if not account.positions and not account.rests:
                    continue
                for ledger in list(account.positions):
                    outputs += self._check_exit(account, ledger, event_ms)
                outputs += alarms.stale_positions(account, self.plans.of(account), shared, self.parameters)
                risk.note_profit(account, shared)
                self.counted.add(account.settings.account)
            return outputs

    # --- market ---------------------------------------------------------------------------------------------------

    def _on_market(self, message: m.Market) -> None:
        self.state.shared.facts[m.key_of(message.exchange, message.market)] = Facts(
            minimum_total=message.minimum_total,
            is_suspect=message.is_caution or message.is_warning,
            tick_size=message.tick_size,
            maximum_total=message.maximum_total,
            is_delisted=message.is_delisted,
            delisting_ms=message.delisting_ms,
        )

    def _on_features(self, features: m.Features) -> list[Output]:
        shared, key = self.state.shared, m.key_of(features.exchange, features.market)
        book = shared.books.get(key)
        if book is not None and features.bin_ms <= book.bin_ms:
            return []
        book = shared.books[key] = Book(bin_ms=features.bin_ms, mid=features.mid, levels=features.levels)
        shared.now_ms = max(shared.now_ms, features.bin_ms)
        if key in shared.quotes and shared.quotes[key].bin_ms <= book.bin_ms:
            del shared.quotes[key]
        risk.note_turnover(features, shared)
        for account in self.state.accounts.values():
            if key in account.shadow.open:
                shadow.on_book(account, key, book)
                self.counted.add(account.settings.account)
        return self._watch(key, book.bin_ms)

    def _on_quote(self, quote: m.Quote) -> list[Output]:
        """Keep a book over REST that is newer than all that is known; positions alone are judged by it."""
        shared, key = self.state.shared, m.key_of(quote.exchange, quote.market)
        book = book_of(quote)
        known = (shared.books.get(key), shared.quotes.get(key))
        if any(one is not None and book.bin_ms <= one.bin_ms for one in known):
            return []
        shared.quotes[key] = book
        return self._watch(key, book.bin_ms)

    def _watch(self, key: str, event_ms: int) -> list[Output]:
        """Judge the open positions of a market by its newest price."""
        outputs: list[Output] = []
        for account in self.state.accounts.values():
            if not account.positions:
                continue
            for ledger in [ledger for ledger in account.positions if market_of(ledger) == key]:
                position = account.positions[ledger]
                rules = exits_of(self.plans.of(account), position.strategy)
                exits.note_bid(position, exits.price_book(rules, ledger, self.state.shared, self.parameters))
                outputs += self._check_exit(account, ledger, event_ms)
        return outputs

    def _on_signal(self, signal: m.Signal) -> list[Output]:
        """Collect the signals of a bin; accounts whose horizons are complete decide at once."""
        shared, key = self.state.shared, m.key_of(signal.exchange, signal.market)
        shared.now_ms = max(shared.now_ms, signal.bin_ms)
        found = shared.bins.get(key)
        outputs: list[Output] = []
        if found is None or signal.bin_ms > found.bin_ms:
            if found is not None and not found.is_closed:
                outputs += self._close_bin(key)
            found = shared.bins[key] = Bin(bin_ms=signal.bin_ms)
        elif signal.bin_ms < found.bin_ms or found.is_closed or signal.horizon_ms in found.signals:
            return []
        found.signals[signal.horizon_ms] = signal
        if names := self.plans.completed(self.state.accounts, found, signal.horizon_ms):
            outputs += self._decide_all(key, found, names)
            if self.is_complete and self._have_all_decided(key, found):
                _let_go(found)
        return outputs

    def _have_all_decided(self, key: str, found: Bin) -> bool:
        return all(account.decided.get(key) == found.bin_ms for account in self.state.accounts.values())

    def complete(self) -> None:
        """All accounts are back: let go of the bins that nobody waits for any more."""
        self.is_complete = True
        self.crowd.recount()
        for key, found in self.state.shared.bins.items():
            if not found.is_closed and self._have_all_decided(key, found):
                _let_go(found)

    def _close_bin(self, key: str) -> list[Output]:
        """Decide with what came; later signals of this bin are too late."""
        found = self.state.shared.bins[key]
        outputs = self._decide_all(key, found, self.state.accounts)
        _let_go(found)
        return outputs

    # --- decisions ------------------------------------------------------------------------------------------------

    def _decide_all(self, key: str, found: Bin, names: Collection[str]) -> list[Output]:
        """Let accounts decide on a bin, each once."""
        glance = Glance(key, found, self.state.shared)
        outputs: list[Output] = []
        for account in self.crowd.in_turn(key, found.bin_ms):
            name = account.settings.account
            if name in names and account.decided.get(key, -1) < found.bin_ms:
                account.decided[key] = found.bin_ms
                self.counted.add(name)
                outputs += self._decide(account, glance)
        return outputs

    def _decide(self, account: Account, glance: Glance) -> list[Output]:
        """One account decides on one bin, strategy by strategy."""
        plan = self.plans.of(account)
        turn_day(account, self.state.shared)
        outputs: list[Output] = []
        for number, rule in enumerate(plan.rules.values()):
            outputs += self._fade(account, plan, rule, glance)
            verdict = entries.judge(account, plan, rule, glance, self.crowd, self.parameters)
            note_best(account.day, verdict, is_first=number == 0)
            if verdict.reason:
                outputs += refuse(account, rule, glance, verdict)
            elif not self.is_restoring:
                outputs.append(self._enter(account, rule, verdict))
        shadow.consider(account, plan, glance, self.parameters)
        return outputs

    def _fade(self, account: Account, plan: Plan, rule: Rule, glance: Glance) -> list[Output]:
        """Ask the strategy of an open position whether its plan has ended."""
        ledger = ledger_key(rule.id, glance.key)
        position = account.positions.get(ledger)
        if position is None or rule.strategy is None or position.quantity <= 0:
            return []
        chance = entries.chance_of(account.settings, glance.signals(plan.horizons), glance)
        holding = Holding(position.opened_ms, position.due_ms, position.horizon_ms, position.average_price)
        faded = leave_of(rule.strategy, holding, chance)
        return [] if faded is None else self._exit(account, ledger, "expectation", faded.id, faded.bin_ms)

    def _enter(self, account: Account, rule: Rule, verdict: Verdict) -> m.OrderIntent:
        intent = entries.entry_intent(account, rule, verdict, self.parameters)
        order = entries.entry_order(account, rule, verdict, intent, self.state.shared.now_ms)
        account.orders[intent.id] = order
        self.crowd.note(order)
        account.reasons.pop(order.ledger, None)
        account.day.entries += 1
        account.day.orders += 1
        self.changed.add(account.settings.account)
        return intent

    def _check_exit(self, account: Account, ledger: str, event_ms: int) -> list[Output]:
        """Look whether a position must go now, whether its failed exit is tried again, or a take profit may rest."""
        position, shared = account.positions[ledger], self.state.shared
        self.counted.add(account.settings.account)
        rules = exits_of(self.plans.of(account), position.strategy)
        kind = exits.wanted_exit(account, rules, ledger, shared, self.parameters)
        if kind is None and position.exit is not None and not position.exit.intent_id:
            kind = position.exit.kind
        if kind is not None:
            return self._exit(account, ledger, kind, position.entry_intent, event_ms)
        return self._told(
            account, resting.rest(account, ledger, rules, event_ms, shared, self.parameters, self.context)
        )

    def _exit(self, account: Account, ledger: str, kind: ExitKind, base: str, event_ms: int) -> list[Output]:
        made = exits.sell(
            account, ledger, kind, base, event_ms, self.state.shared, self.parameters, self.context
        )  # fmt: skip
        return self._told(account, made)

    def _told(self, account: Account, made: m.OrderIntent | m.CancelIntent | None) -> list[Output]:
        if made is None:
            return []
        self.changed.add(account.settings.account)
        if isinstance(made, m.OrderIntent):
            account.day.orders += 1
            self.crowd.note_sell(account, account.orders[made.id])
        return [made]

    # --- people and orders ----------------------------------------------------------------------------------------

    def _on_order_event(self, event: m.OrderEvent) -> list[Output]:
        account, shared = self.state.accounts.get(event.account), self.state.shared
        if account is None:
            return []
        turn_day(account, shared)
        ended = positions.on_order_event(account, event, shared.now_ms, self.parameters)
        outputs: list[Output] = [] if ended is None else self._after(account, ended)
        self.counted.add(event.account)
        if not isinstance(event, m.Veto):
            risk.note_profit(account, shared)
            self.changed.add(event.account)
        return [*outputs, *alarms.refused_exits(account, shared.now_ms)]

    def _after(self, account: Account, ended: Order) -> list[Output]:
        """What follows the end of a resting order: the sale that waited for it; a rest that nobody can sell is dust."""
        account.day.cancels += ended.state == "cancelled"
        position = account.positions.get(ended.ledger)
        if position is None or ended.price is None:
            return []
        shared = self.state.shared
        if position.exit is not None and not position.exit.intent_id:
            kind, base = position.exit.kind, position.exit.base
            return self._exit(account, ended.ledger, kind, base, shared.now_ms)
        if ended.executed_quantity and exits.is_dust(ended.ledger, position.quantity, shared, self.parameters):
            positions.leave_rest(account, ended.ledger, shared.now_ms)
        return []

    def _on_control(self, control: m.Control) -> list[Output]:
        if isinstance(control, m.AccountSettings):
            self._on_settings(control)
            return []
        if isinstance(control, m.Halt):
            return self._on_halt(control)
        self.changed.update(people.on_control(self.state, control))
        return []

    def _on_settings(self, settings: m.AccountSettings) -> None:
        self.plans.forget()
        self.crowd.regroup()
        if not self.owns(settings.pocket):
            self.state.accounts.pop(settings.account, None)
            return
        self.changed.add(settings.account)
        account = self.state.accounts.get(settings.account)
        if account is None:
            account = Account(settings=settings, is_trading=settings.is_trading)
            self.state.accounts = dict(sorted({**self.state.accounts, settings.account: account}.items()))
        else:
            account.settings, account.is_trading = settings, settings.is_trading

    def _on_halt(self, halt: m.Halt) -> list[Output]:
        kind = people.halt(self.state, halt)
        outputs: list[Output] = []
        for account in people.named(self.state, halt.account):
            self.changed.add(account.settings.account)
            if kind == "sell-all":
                outputs += [
                    resting.cancel_of(account, order.intent_id, "halted", halt.event_ms)
                    for order in account.orders.values()
                    if order.is_open and order.side == "buy"
                ]
                for ledger in list(account.positions):
                    base = account.positions[ledger].entry_intent
                    outputs += self._exit(account, ledger, "halt", base, halt.event_ms)
        return outputs


def _let_go(found: Bin) -> None:
    """Everybody has decided: later signals of the bin are too late, the others are not needed any more."""
    found.is_closed = True
    found.signals = {}
