"""The exit rules: halt, stop, trailing stop, take profit, stale data, delisting, time over. Pure; nothing here asks for
cost or permission.

Called by `consumers.trade.fold` inside its decimal context. The entry's cost is sunk: it plays no part. All but time
over and an expectation that is gone are protective exits and pass every veto.
"""

from decimal import ROUND_FLOOR, Context, Decimal

from consumers.trade.ledgers import Exit, ExitKind, Order, Position, ledger_key, market_of
from consumers.trade.positions import leave_rest
from consumers.trade.resting import cancel_resting
from consumers.trade.state import Account, Book, Parameters, Shared
from streams import messages as m
from streams.market import costs

PROTECTIVE: frozenset[ExitKind] = frozenset({"stop", "trailing", "take-profit", "stale", "halt", "delisting"})
HUNDRED = Decimal(100)


def bid_of(book: Book | None) -> Decimal | None:
    """The best bid of a book, its mid price where the bids are empty."""
    if book is None:
        return None
    bid = book.levels[0] if book.levels and book.levels[0] is not None else book.mid
    return None if bid is None else Decimal(repr(bid))


def note_bid(position: Position, book: Book | None) -> None:
    """Keep the highest bid since the position was opened."""
    bid = bid_of(book)
    if bid is not None and (position.high_bid is None or bid > position.high_bid):
        position.high_bid = bid


def is_stale(ledger: str, shared: Shared, parameters: Parameters) -> bool:
    """Whether the market's last book is too old to watch a price by."""
    book = shared.books.get(market_of(ledger))
    return book is not None and shared.now_ms - book.bin_ms > parameters.stale_feed_ms


def price_book(exits: m.ExitRules, ledger: str, shared: Shared, parameters: Parameters) -> Book | None:
    """The book that exits are judged by: the feed's; while that is too old one over REST, where the rules want it."""
    key = market_of(ledger)
    book, quote = shared.books.get(key), shared.quotes.get(key)
    if quote is None or exits.on_stale == "hold" or shared.now_ms - quote.bin_ms > parameters.stale_feed_ms:
        return book
    return quote if book is None or is_stale(ledger, shared, parameters) else book


def is_blind(exits: m.ExitRules, ledger: str, shared: Shared, parameters: Parameters) -> bool:
    """Whether no price may be watched: the feed's is too old, and there is none over REST, or the rules want none."""
    is_feeds = price_book(exits, ledger, shared, parameters) is shared.books.get(market_of(ledger))
    return is_feeds and is_stale(ledger, shared, parameters)


def _is_given_up(exits: m.ExitRules, ledger: str, shared: Shared, parameters: Parameters) -> bool:
    """Whether the rules sell because the feed's book is too old."""
    book = shared.books.get(market_of(ledger))
    longest_ms = parameters.stale_feed_ms + exits.stale_sell_ms
    return exits.on_stale == "sell" and book is not None and shared.now_ms - book.bin_ms > longest_ms


def wanted_exit(
    account: Account, exits: m.ExitRules, ledger: str, shared: Shared, parameters: Parameters
) -> ExitKind | None:
    """The exit that halt, price, age of the data or time ask for now; the most urgent one."""
    if "sell-all" in (shared.halt, account.halt):
        return "halt"
    position = account.positions[ledger]
    book = price_book(exits, ledger, shared, parameters)
    if (kind := _by_price(position, exits, account.settings.stop_percent, book)) is not None:
        return kind
    if _is_given_up(exits, ledger, shared, parameters):
        return "stale"
    if _is_ending(exits, ledger, shared):
        return "delisting"
    return "time-stop" if shared.now_ms >= position.due_ms else None


def _is_ending(exits: m.ExitRules, ledger: str, shared: Shared) -> bool:
    """Whether the day named for the end of the market's trading is as near as the rules allow."""
    facts, before_ms = shared.facts.get(market_of(ledger)), exits.delisting_sell_ms
    if facts is None or facts.delisting_ms is None or before_ms is None:
        return False
    return shared.now_ms >= facts.delisting_ms - before_ms


def _by_price(position: Position, exits: m.ExitRules, stop_percent: Decimal, book: Book | None) -> ExitKind | None:
    bid = bid_of(book)
    if bid is None or position.quantity <= 0:
        return None
    if bid <= position.average_price * (1 - stop_percent / HUNDRED):
        return "stop"
    trailing, high = exits.trailing_percent, position.high_bid
    if trailing is not None and high is not None and bid <= high * (1 - trailing / HUNDRED):
        return "trailing"
    target = exits.take_profit_percent
    if target is None or position.resting or bid < position.average_price * (1 + target / HUNDRED):
        return None
    return "take-profit"


def sell(
    account: Account,
    ledger: str,
    kind: ExitKind,
    base: str,
    event_ms: int,
    shared: Shared,
    parameters: Parameters,
    context: Context,
) -> m.OrderIntent | m.CancelIntent | None:
    """Make the market sell of a position and note it, or set the position aside as dust where it cannot be sold.

    Makes nothing while an exit is under way, waits for its next try, or (plan exits only) the entry is still filling.
    Where a take profit rests at the exchange it is cancelled first: what it holds cannot be sold, and nothing is sold
    before its end is told.
    """
    position = account.positions[ledger]
    under_way = position.exit
    if under_way is not None:
        is_escalated = kind in PROTECTIVE and under_way.kind not in PROTECTIVE
        if under_way.intent_id or (shared.now_ms < under_way.retry_ms and not is_escalated):
            return None
        kind, base = (kind, base) if is_escalated else (under_way.kind, under_way.base)
    entry = account.orders.get(position.entry_intent)
    if kind not in PROTECTIVE and entry is not None and entry.is_open:
        return None
    if position.resting:
        position.exit = _exit_of(position, kind, base, "")
        return cancel_resting(account, position, f"{kind} of the position", event_ms)
    quantity = costs.order_quantity(position.quantity, context)
    is_tried = under_way is not None and under_way.tries > 0
    if is_dust(ledger, quantity, shared, parameters) and (kind not in PROTECTIVE or is_tried):
        leave_rest(account, ledger, shared.now_ms)
        return None
    return _sell_intent(account, position, kind, base, quantity, event_ms, shared, parameters)


def _exit_of(position: Position, kind: ExitKind, base: str, intent_id: str) -> Exit:
    """The exit after one more try, or while it waits for its first."""
    tries, refused = (0, 0) if position.exit is None else (position.exit.tries, position.exit.refused)
    return Exit(kind=kind, base=base, intent_id=intent_id, tries=tries + bool(intent_id), refused=refused)


def is_dust(ledger: str, quantity: Decimal, shared: Shared, parameters: Parameters) -> bool:
    """Whether what is left is below the exchange's minimum at the best bid (unknown price: it is not)."""
    if quantity <= 0:
        return True
    key = market_of(ledger)
    facts, bid = shared.facts.get(key), bid_of(shared.quotes.get(key) or shared.books.get(key))
    minimum = facts.minimum_total if facts is not None else parameters.minimum_total
    return bid is not None and (quantity * bid).quantize(Decimal(1), ROUND_FLOOR) < minimum


def _sell_intent(
    account: Account,
    position: Position,
    kind: ExitKind,
    base: str,
    quantity: Decimal,
    event_ms: int,
    shared: Shared,
    parameters: Parameters,
) -> m.OrderIntent:
    entry = account.orders.get(position.entry_intent)
    number = entry.exits if entry is not None else 0
    purpose: m.Purpose = "protective-exit" if kind in PROTECTIVE else "exit"
    cause_id = base if number == 0 else f"{base}/{number}"
    intent = m.OrderIntent(
        id=m.intent_id(account.settings.account, kind, ledger_key(position.strategy, cause_id), purpose),
        account=account.settings.account,
        pocket=account.settings.pocket,
        exchange=position.exchange,
        market=position.market,
        side="sell",
        order_type="market",
        price=None,
        quantity=quantity,
        funds=None,
        time_in_force="",
        purpose=purpose,
        cause_kind=kind,
        cause_id=cause_id,
        event_ms=event_ms,
        expires_ms=event_ms + parameters.exit_expiry_ms,
        reason=f"{kind} of the position opened by {position.entry_intent}",
        strategy=position.strategy,
    )
    position.exit = _exit_of(position, kind, base, intent.id)
    if entry is not None:
        entry.exits += 1
    account.orders[intent.id] = Order(
        intent_id=intent.id,
        exchange=position.exchange,
        market=position.market,
        side="sell",
        purpose=purpose,
        strategy=position.strategy,
        reserved=Decimal(0),
        due_ms=0,
        horizon_ms=0,
        signal_id="",
        event_ms=shared.now_ms,
    )
    return intent
