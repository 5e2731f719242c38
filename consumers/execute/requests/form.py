"""From what a person types to a request: amounts, times, percent, and what the order will cost. Pure.

Called by `verbs`. Every error says what to do. Times without a zone are Korean ones.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import NamedTuple

import msgspec

from consumers.execute.requests.check import EXCHANGE, shown
from consumers.execute.requests.watch import Book
from consumers.execute.requests.words import KOREA, korean
from infra.errors import BadSettings
from streams.market.costs import QUANTITY_STEP, Ladder, bought_for, sold_for
from streams.messages import OrderRequested, Side

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_EVERY = re.compile(r"(\d{1,6})([smhdw])")
_WIDE = Context(prec=50)


@dataclass(frozen=True, slots=True)
class Typed:
    """The options of `order buy`, `order sell` and `order change`; None: not given."""

    funds: str | None = None
    quantity: str | None = None
    price: str | None = None
    percent: str | None = None
    at: str | None = None
    every: str | None = None
    times: int | None = None
    when_below: str | None = None
    when_above: str | None = None
    until: str | None = None
    is_assisted: bool | None = None
    patience_s: float | None = None


class Person(NamedTuple):
    """Who asks: account, its pocket, the fee of one side in per cent, and the name that is written down."""

    account: str
    pocket: str
    fee_percent: Decimal
    by: str


def new_request(
    request_id: str,
    person: Person,
    side: Side,
    market: str,
    typed: Typed,
    available: Decimal | None,
    now_ms: int,
) -> OrderRequested:
    """The request; `available` is what the pocket has of the currency that is spent, for `percent`."""
    if typed.when_below is not None and typed.when_above is not None:
        raise BadSettings("--when-below and --when-above exclude each other: a request waits for one price.")
    plain = OrderRequested(
        id=request_id,
        account=person.account,
        pocket=person.pocket,
        exchange=EXCHANGE,
        market=market,
        side=side,
        order_type="price" if side == "buy" else "market",
        event_ms=now_ms,
        by=person.by,
    )
    amounts = _amounts(plain, person, typed, available)
    return msgspec.structs.replace(_timed(plain, typed, now_ms), **amounts)


def changed_request(request: OrderRequested, typed: Typed, now_ms: int) -> OrderRequested:
    """The request with what was typed in place of what stood there."""
    if typed.percent is not None:
        raise BadSettings("A change needs an amount: --funds or --quantity instead of --percent.")
    changes: dict[str, Decimal] = {}
    for name in ("funds", "quantity", "price"):
        text = getattr(typed, name)
        if text is None:
            continue
        if getattr(request, name) is None:
            raise BadSettings(f"This request has no {name}: cancel it and ask for another one.")
        changes[name] = number(text, name)
    return msgspec.structs.replace(_timed(request, typed, now_ms), event_ms=now_ms, **changes)


def priced(typed: Typed, book: Book | None) -> Typed:
    """`bid` and `ask` as a price become the best one of that side."""
    if typed.price not in {"bid", "ask"}:
        return typed
    levels = () if book is None else book.bids if typed.price == "bid" else book.asks
    if not levels:
        raise BadSettings(f"There is no fresh book to take the {typed.price} from: write the price as a number.")
    return replace(typed, price=shown(Decimal(repr(levels[0][0]))))


def _amounts(request: OrderRequested, person: Person, typed: Typed, available: Decimal | None) -> dict[str, object]:
    """What is to be traded; a price makes it a limit order."""
    given = [name for name in ("funds", "quantity", "percent") if getattr(typed, name) is not None]
    if len(given) != 1:
        raise BadSettings("Say how much with one of --funds, --quantity and --percent.")
    price = None if typed.price is None else number(typed.price, "price")
    amount = _share(request, person, typed, available) if typed.percent is not None else None
    funds, quantity = amount if amount is not None else (None, None)
    funds = funds if typed.funds is None else number(typed.funds, "funds")
    quantity = quantity if typed.quantity is None else number(typed.quantity, "quantity")
    if price is not None:
        if quantity is None and funds is not None:
            quantity = _WIDE.divide(funds, price).quantize(QUANTITY_STEP, ROUND_FLOOR, _WIDE)
        return {"order_type": "limit", "price": price, "quantity": quantity}
    if request.side == "buy" and funds is None:
        raise BadSettings("A buy at the market needs --funds; with --quantity say a --price as well.")
    if request.side == "sell" and quantity is None:
        raise BadSettings("A sale at the market needs --quantity or --percent; with --funds say a --price as well.")
    return {"funds": funds} if request.side == "buy" else {"quantity": quantity}


def _share(
    request: OrderRequested, person: Person, typed: Typed, available: Decimal | None
) -> tuple[Decimal | None, Decimal | None]:
    """Per cent of what is available: quote currency for a buy, fee included, base currency for a sale."""
    percent = number(typed.percent or "", "percent")
    if percent > 100:
        raise BadSettings(f"{typed.percent} per cent is more than there is; up to 100.")
    if available is None or available <= 0:
        quote, _, base = request.market.partition("-")
        raise BadSettings(f"Nothing of {quote if request.side == 'buy' else base} is available in {request.pocket}.")
    part = _WIDE.divide(_WIDE.multiply(available, percent), Decimal(100))
    if request.side == "sell":
        return None, part.quantize(QUANTITY_STEP, ROUND_FLOOR, _WIDE)
    without_fee = _WIDE.divide(part, _WIDE.add(Decimal(1), person.fee_percent / 100))
    step = Decimal(1) if request.market.startswith("KRW-") else QUANTITY_STEP
    return without_fee.quantize(step, ROUND_FLOOR, _WIDE), None


def _timed(request: OrderRequested, typed: Typed, now_ms: int) -> OrderRequested:
    changes: dict[str, object] = {}
    if typed.at is not None:
        changes["at_ms"] = time_ms(typed.at)
        if time_ms(typed.at) <= now_ms:
            raise BadSettings(f"{typed.at} lies in the past; leave --at out to order now.")
    if typed.every is not None:
        changes["every_ms"] = every_ms(typed.every)
    if typed.times is not None:
        changes["times"] = typed.times
    for name, trigger in (("when_below", "at-or-below"), ("when_above", "at-or-above")):
        if (text := getattr(typed, name)) is not None:
            changes |= {"trigger": trigger, "trigger_price": number(text, f"--{name.replace('_', '-')}")}
    if typed.until is not None:
        changes["expires_ms"] = time_ms(typed.until)
    if typed.is_assisted is not None:
        changes["is_assisted"] = typed.is_assisted
    if typed.patience_s is not None:
        changes["patience_ms"] = int(typed.patience_s * 1000)
    return msgspec.structs.replace(request, **changes)


def number(text: str, what: str) -> Decimal:
    """A positive decimal number; thousands may be set apart by commas or underscores."""
    try:
        found = Decimal(text.replace(",", "").replace("_", ""))
    except InvalidOperation:
        found = Decimal(0)
    if not found.is_finite() or found <= 0:
        raise BadSettings(f"{what}: {text!r} is no number above zero.")
    return found


def time_ms(text: str) -> int:
    """A time like `2026-11-22 09:00`, Korean where it names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadSettings(f"{text!r} is no time; write it like 2026-11-22 09:00 (Korean time).") from None
    found = found if found.tzinfo is not None else found.replace(tzinfo=KOREA)
    return int(found.timestamp() * 1000)


def every_ms(text: str) -> int:
    """An interval like `30m`, `12h`, `1d`, `2w`."""
    found = _EVERY.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise BadSettings(f"{text!r} is no interval; write it like 30m, 12h, 1d or 2w.")
    return int(found[1]) * _UNITS_MS[found[2]]


# --- what it will cost


class Estimate(NamedTuple):
    """An order at the market now, in quote currency; all about."""

    quantity: float
    funds: float
    average: float
    fee: float
    spread_cost: float
    """Against the mid price: half spread and slippage."""
    back: float | None
    """What selling the bought quantity at once would give after its fee; None for a sale."""


def estimate(request: OrderRequested, book: Book | None, fee_percent: Decimal) -> Estimate | None:
    """What sending it at once would do by this book; None where there is none or it is too thin."""
    if book is None or not book.bids or not book.asks:
        return None
    bids, asks = _ladder(book.bids), _ladder(book.asks)
    mid, rate = (bids.prices[0] + asks.prices[0]) / 2, float(fee_percent) / 100
    if request.side == "sell":
        quantity = float(request.quantity or 0)
        funds = sold_for(bids, quantity)
        if not funds:
            return None
        return Estimate(quantity, funds, funds / quantity, funds * rate, quantity * mid - funds, None)
    if request.funds is not None:
        funds, bought = float(request.funds), bought_for(asks, float(request.funds))
    else:
        bought = float(request.quantity or 0)
        funds = bought * float(request.price or 0)
    back = sold_for(bids, bought) if bought else None
    if not bought or back is None:
        return None
    return Estimate(bought, funds, funds / bought, funds * rate, funds - bought * mid, back * (1 - rate))


def _ladder(levels: tuple[tuple[float, float], ...]) -> Ladder:
    return Ladder(tuple(price for price, _ in levels), tuple(size for _, size in levels))


def description(request: OrderRequested, found: Estimate | None) -> list[str]:
    """What will happen, for the person to confirm."""
    quote, _, base = request.market.partition("-")
    amount = f"{shown(request.quantity)} {base}" if request.quantity is not None else ""
    amount = f"for {shown(request.funds)} {quote}" if request.funds is not None else amount
    price = "at the market" if request.price is None else f"at {shown(request.price)} {quote}"
    lines = [f"{'Buy' if request.side == 'buy' else 'Sell'} {request.market} {amount} {price}."]
    lines += _when(request)
    if found is not None:
        lines.append(
            f"At this moment: about {found.quantity:.8f} {base} at {about(found.average)} on average, fee about"
            f" {about(found.fee)} {quote}, spread and slippage about {about(found.spread_cost)} {quote}."
        )
        if found.back is not None:
            lines.append(f"Sold at once it gives about {about(found.back)} {quote}.")
    if request.is_assisted and request.order_type in {"price", "market"}:
        lines.append(f"The assistant may wait up to {request.patience_ms / 1000:g} s for a better price.")
    return lines


def _when(request: OrderRequested) -> list[str]:
    lines = []
    if request.at_ms is not None:
        lines.append(f"Not before {korean(request.at_ms)}.")
    if request.every_ms is not None:
        times = "until it is cancelled" if request.times is None else f"{request.times} times in all"
        lines.append(f"Again every {interval(request.every_ms)}, {times}.")
    if request.trigger_price is not None:
        how = "at or below" if request.trigger == "at-or-below" else "at or above"
        side = "ask" if request.side == "buy" else "bid"
        lines.append(f"Once the best {side} is {how} {shown(request.trigger_price)}.")
    if request.expires_ms is not None:
        lines.append(f"Not after {korean(request.expires_ms)}.")
    return lines


def about(amount: float) -> str:
    """A rough amount: whole from a thousand on, else four digits."""
    return f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:.4g}"


def interval(ms: int) -> str:
    """An interval as it is typed: `1d`, `90m`."""
    unit = next((unit for unit in reversed(_UNITS_MS) if ms % _UNITS_MS[unit] == 0), "")
    return f"{ms // _UNITS_MS[unit]}{unit}" if unit else f"{ms / 1000:g} s"
