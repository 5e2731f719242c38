"""The pure fold: one input changes the state and may give intents, cancels and vetoes.

Called by `consumers.trade.runner` (live) and `consumers.trade.replay` with the same inputs in the same order, and
gives the same output bytes. No clock, no randomness, no log, no settings object: time comes from bins and pulses, money
is computed in the decimal context that is passed in.
"""

from collections.abc import Callable
from decimal import Context, localcontext

from consumers.trade import entries, exits, positions
from consumers.trade.entries import Verdict
from consumers.trade.state import Account, Bin, Book, Day, ExitKind, Facts, Order, Parameters, State, day_of
from streams import messages as m

Output = m.OrderIntent | m.CancelIntent | m.Veto
Input = m.Signal | m.Features | m.Market | m.Control | m.OrderEvent
ALL_ACCOUNTS = "*"


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
    ) -> None:
        self.parameters = parameters
        self.context = context
        self.owns = owns
        self.state = State() if state is None else state
        self.is_complete = True
        """Whether every account is in the state; while one is put back, others having decided ends no bin."""

    def take(self, message: Input) -> list[Output]:
        """Take one record; messages that mean nothing to trade give nothing."""
        with localcontext(self.context):
            if isinstance(message, m.Signal):
                return self._on_signal(message)
            if isinstance(message, m.Features):
                return self._on_features(message)
            if isinstance(message, m.Market):
                self._on_market(message)
                return []
            if isinstance(
                message,
                m.AccountSettings
                | m.TradingStarted
                | m.TradingStopped
                | m.Halt
                | m.Warmed
                | m.LedgerAccepted
                | m.AccountResumed,
            ):
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
                for key in list(account.positions):
                    outputs += self._check_exit(account, key, event_ms)
            return outputs

    # --- market ---------------------------------------------------------------------------------------------------

    def _on_market(self, message: m.Market) -> None:
        self.state.shared.facts[m.key_of(message.exchange, message.market)] = Facts(
            minimum_total=message.minimum_total, is_suspect=message.is_caution or message.is_warning
        )

    def _on_features(self, features: m.Features) -> list[Output]:
        shared, key = self.state.shared, m.key_of(features.exchange, features.market)
        book = shared.books.get(key)
        if book is not None and features.bin_ms <= book.bin_ms:
            return []
        shared.books[key] = Book(bin_ms=features.bin_ms, mid=features.mid, levels=features.levels)
        shared.now_ms = max(shared.now_ms, features.bin_ms)
        outputs: list[Output] = []
        for account in self.state.accounts.values():
            if key in account.positions:
                outputs += self._check_exit(account, key, features.bin_ms)
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
        for account in self.state.accounts.values():
            wanted = account.settings.horizons_ms
            if signal.horizon_ms in wanted and all(horizon in found.signals for horizon in wanted):
                outputs += self._decide(account, key, found)
        if self.is_complete and self._have_all_decided(key, found):
            _let_go(found)
        return outputs

    def _have_all_decided(self, key: str, found: Bin) -> bool:
        return all(account.decided.get(key) == found.bin_ms for account in self.state.accounts.values())

    def complete(self) -> None:
        """All accounts are back: let go of the bins that nobody waits for any more."""
        self.is_complete = True
        for key, found in self.state.shared.bins.items():
            if not found.is_closed and self._have_all_decided(key, found):
                _let_go(found)

    def _close_bin(self, key: str) -> list[Output]:
        """Decide with what came; later signals of this bin are too late."""
        found = self.state.shared.bins[key]
        outputs: list[Output] = []
        for account in self.state.accounts.values():
            outputs += self._decide(account, key, found)
        _let_go(found)
        return outputs

    # --- decisions ------------------------------------------------------------------------------------------------

    def _decide(self, account: Account, key: str, found: Bin) -> list[Output]:
        """One account decides on one bin, once."""
        if account.decided.get(key, -1) >= found.bin_ms:
            return []
        account.decided[key] = found.bin_ms
        shared = self.state.shared
        _turn_day(account, shared.now_ms)
        outputs: list[Output] = []
        position = account.positions.get(key)
        if position is not None:
            faded = exits.faded_signal(account, position, found, shared.now_ms)
            if faded is not None:
                outputs += self._exit(account, key, "expectation", faded.id, faded.bin_ms)
        verdict = entries.judge(account, key, found, shared, self.parameters)
        _note_best(account.day, verdict)
        if verdict.reason:
            outputs += _refuse(account, key, found, verdict)
        else:
            outputs.append(self._enter(account, key, verdict))
        return outputs

    def _enter(self, account: Account, key: str, verdict: Verdict) -> m.OrderIntent:
        intent = entries.entry_intent(account, verdict, self.parameters)
        signal = verdict.signal
        if signal is None:
            raise ValueError("an entry has a signal")
        account.orders[intent.id] = Order(
            intent_id=intent.id,
            exchange=intent.exchange,
            market=intent.market,
            side="buy",
            purpose="entry",
            reserved=entries.entry_total(account.settings),
            due_ms=signal.bin_ms + signal.horizon_ms,
            horizon_ms=signal.horizon_ms,
            signal_id=signal.id,
            event_ms=self.state.shared.now_ms,
        )
        account.reasons.pop(key, None)
        account.day.entries += 1
        return intent

    def _check_exit(self, account: Account, key: str, event_ms: int) -> list[Output]:
        """Look whether a position must go now, or whether its failed exit is to be tried again."""
        position = account.positions[key]
        kind = exits.wanted_exit(account, key, position, self.state.shared)
        if kind is None and position.exit is not None and not position.exit.intent_id:
            kind = position.exit.kind
        return [] if kind is None else self._exit(account, key, kind, position.entry_intent, event_ms)

    def _exit(self, account: Account, key: str, kind: ExitKind, base: str, event_ms: int) -> list[Output]:
        intent = exits.sell(
            account, key, kind, base, event_ms, self.state.shared, self.parameters, self.context
        )  # fmt: skip
        return [] if intent is None else [intent]

    # --- people and orders ----------------------------------------------------------------------------------------

    def _on_order_event(self, event: m.OrderEvent) -> list[Output]:
        account = self.state.accounts.get(event.account)
        if account is None:
            return []
        _turn_day(account, self.state.shared.now_ms)
        positions.on_order_event(account, event, self.state.shared.now_ms, self.parameters)
        return [*exits.alarms(account, self.state.shared.now_ms)]

    def _on_control(self, control: m.Control) -> list[Output]:
        shared = self.state.shared
        if isinstance(control, m.Warmed):
            shared.warmed_ms = control.event_ms
            return []
        if isinstance(control, m.AccountSettings):
            self._on_settings(control)
            return []
        if isinstance(control, m.Halt):
            return self._on_halt(control)
        if isinstance(control, m.LedgerAccepted):
            for account in self._named(control.account):
                positions.accept_ledger(account, control.holdings, shared.now_ms)
            return []
        if isinstance(control, m.AccountResumed):
            for account in self._named(control.account):
                account.paused = ""
            return []
        for account in self._named(control.account):
            account.is_trading = isinstance(control, m.TradingStarted)
        return []

    def _on_settings(self, settings: m.AccountSettings) -> None:
        if not self.owns(settings.pocket):
            self.state.accounts.pop(settings.account, None)
            return
        account = self.state.accounts.get(settings.account)
        if account is None:
            account = Account(settings=settings, is_trading=settings.is_trading)
            self.state.accounts = dict(sorted({**self.state.accounts, settings.account: account}.items()))
        else:
            account.settings, account.is_trading = settings, settings.is_trading

    def _on_halt(self, halt: m.Halt) -> list[Output]:
        kind = "" if halt.kind == "lifted" else halt.kind
        if halt.account == ALL_ACCOUNTS:
            self.state.shared.halt = kind
        outputs: list[Output] = []
        for account in self._named(halt.account):
            if halt.account != ALL_ACCOUNTS:
                account.halt = kind
            if kind == "sell-all":
                outputs += [_cancel(account, order, halt.event_ms) for order in account.orders.values() if _open(order)]
                for key in list(account.positions):
                    outputs += self._exit(account, key, "halt", account.positions[key].entry_intent, halt.event_ms)
        return outputs

    def _named(self, account: str) -> list[Account]:
        if account == ALL_ACCOUNTS:
            return list(self.state.accounts.values())
        return [found] if (found := self.state.accounts.get(account)) is not None else []


def _let_go(found: Bin) -> None:
    """Everybody has decided: later signals of the bin are too late, the others are not needed any more."""
    found.is_closed = True
    found.signals = {}


def _open(order: Order) -> bool:
    return order.is_open and order.side == "buy"


def _cancel(account: Account, order: Order, event_ms: int) -> m.CancelIntent:
    settings = account.settings
    return m.CancelIntent(
        id=m.content_id("cancel", settings.account, order.intent_id),
        account=settings.account,
        pocket=settings.pocket,
        intent_id=order.intent_id,
        event_ms=event_ms,
        reason="halted",
    )


def _turn_day(account: Account, now_ms: int) -> None:
    day = day_of(now_ms)
    if account.day.day != day:
        account.day = Day(day=day)


def _note_best(day: Day, verdict: Verdict) -> None:
    """Keep the forecast of the day that came closest to what a trade needs."""
    day.forecasts += verdict.forecasts
    if verdict.signal is None or verdict.needed_bp is None:
        return
    net = verdict.signal.expected_bp - verdict.needed_bp
    best, needed = day.best_expected_bp, day.best_needed_bp
    if best is None or needed is None or net > best - needed:
        day.best_expected_bp, day.best_needed_bp = verdict.signal.expected_bp, verdict.needed_bp
        day.best_market = verdict.signal.market


def _refuse(account: Account, key: str, found: Bin, verdict: Verdict) -> list[Output]:
    """Count a refusal; tell it where the market's reason changed."""
    day = account.day
    day.refusals[verdict.reason] = day.refusals.get(verdict.reason, 0) + 1
    if account.reasons.get(key) == verdict.reason:
        return []
    account.reasons[key] = verdict.reason
    signal = verdict.signal if verdict.signal is not None else next(iter(found.signals.values()))
    return [
        m.Veto(
            account=account.settings.account,
            exchange=signal.exchange,
            market=signal.market,
            reason=verdict.reason,
            event_ms=found.bin_ms,
            best_expected_bp=None if verdict.signal is None else signal.expected_bp,
            needed_bp=verdict.needed_bp,
            horizon_ms=None if verdict.signal is None else signal.horizon_ms,
        )
    ]
