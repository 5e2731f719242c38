"""Builds the messages that tell the life of an order. Called by `desk` inside the journal's transaction. Pure."""

from collections.abc import Sequence
from decimal import Decimal, localcontext

from consumers.execute.journal import AttemptRow
from consumers.execute.venue import Execution, Order
from streams.messages import (
    OrderAccepted,
    OrderCancelled,
    OrderExpired,
    OrderFilled,
    OrderIntent,
    OrderRejected,
    OrderSent,
    OrderUnknown,
)

_FEE_STEP = Decimal("1e-12")


def sent(intent: OrderIntent, number: int, identifier: str, event_ms: int) -> OrderSent:
    """Attempt `number` is about to go out."""
    return OrderSent(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        attempt=number,
        identifier=identifier,
        event_ms=event_ms,
    )


def accepted(intent: OrderIntent, attempt: AttemptRow, uuid: str, event_ms: int) -> OrderAccepted:
    """The exchange has it."""
    return OrderAccepted(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        attempt=attempt.number,
        identifier=attempt.identifier,
        uuid=uuid,
        event_ms=event_ms,
    )


def rejected(intent: OrderIntent, number: int, name: str, text: str, event_ms: int) -> OrderRejected:
    """Nothing was placed."""
    return OrderRejected(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        attempt=number,
        name=name,
        text=text,
        event_ms=event_ms,
    )


def unknown(
    intent: OrderIntent, attempt: AttemptRow, text: str, event_ms: int, *, is_lost: bool = False
) -> OrderUnknown:
    """The attempt is in doubt; `is_lost`: the exchange had it and has forgotten it."""
    return OrderUnknown(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        attempt=attempt.number,
        identifier=attempt.identifier,
        text=text,
        event_ms=event_ms,
        is_lost=is_lost,
    )


def expired(intent: OrderIntent, number: int, text: str, event_ms: int) -> OrderExpired:
    """It is never attempted again."""
    return OrderExpired(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        attempt=number,
        text=text,
        event_ms=event_ms,
    )


def cancelled(intent: OrderIntent, attempt: AttemptRow | None, uuid: str, event_ms: int) -> OrderCancelled:
    """The order ended; its totals are those told in fills."""
    return OrderCancelled(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        uuid=uuid,
        executed_quantity=attempt.executed_quantity if attempt else Decimal(0),
        executed_funds=attempt.executed_funds if attempt else Decimal(0),
        paid_fee=attempt.paid_fee if attempt else Decimal(0),
        event_ms=event_ms,
    )


def shares_of_fee(total: Decimal, executions: Sequence[Execution]) -> list[Decimal]:
    """Split the fee newly paid by an order over its new executions by their funds; the shares add up exactly.

    REST gives one cumulative fee per order and none per execution.
    """
    with localcontext(prec=50):
        funds = sum((execution.funds for execution in executions), Decimal(0))
        shares = [
            (total * execution.funds / funds).quantize(_FEE_STEP) if funds else Decimal(0)
            for execution in executions[:-1]
        ]
        return [*shares, total - sum(shares, Decimal(0))]


def filled(
    intent: OrderIntent, order: Order, execution: Execution, fee: Decimal, totals: AttemptRow, event_ms: int
) -> OrderFilled:
    """One execution; `totals` are cumulative with it. Whether it is the last one is for the caller to say."""
    return OrderFilled(
        account=intent.account,
        pocket=intent.pocket,
        intent_id=intent.id,
        uuid=order.uuid,
        fill_id=execution.id,
        exchange=intent.exchange,
        market=intent.market,
        side=intent.side,
        price=execution.price,
        quantity=execution.quantity,
        funds=execution.funds,
        fee=fee,
        executed_quantity=totals.executed_quantity,
        executed_funds=totals.executed_funds,
        paid_fee=totals.paid_fee,
        is_final=False,
        event_ms=event_ms,
        purpose=intent.purpose,
        strategy=intent.strategy,
    )
