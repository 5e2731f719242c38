"""Reads and checks the body of an order request, in the exchange's terms. Pure; called by `exchange`.

Texts become integers here: prices and lots of 1e-8. Anything that is not as documented raises `OrderRefused`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from producers.sandbox.refusals import OrderRefused
from streams.market.ledger import ATOMS_PER_LOT
from streams.market.matching import NOTIONAL, Kind, Level, Order
from streams.market.ticks import E8, is_on_tick

_NUMBER = re.compile(r"\d{1,20}(?:\.(\d*))?", re.ASCII)
_KINDS = ("limit", "price", "market", "best")
_TIMES = ("ioc", "fok", "post_only")
_SMP = ("cancel_maker", "cancel_taker", "reduce")
SMP_DEFAULTS = ("", "cancel_maker")
"""What an order that names no mode has: until November 2026 nothing, `cancel_maker` since (as announced)."""

FEE_E4 = {"KRW": 5, "BTC": 25, "USDT": 25}
MINIMUM_E8 = {"KRW": 5_000 * E8, "BTC": E8 // 20_000, "USDT": E8 // 2}
MAXIMUM_E8 = {"KRW": 1_000_000_000 * E8, "BTC": 10 * E8, "USDT": 1_000_000 * E8}
"""The USDT maximum is not documented."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A checked request; `total_e8` stands for orders given in quote money, `lots` for the rest."""

    market: str
    is_buy: bool
    kind: Kind
    price_e8: int | None
    total_e8: int | None
    lots: int | None
    time_in_force: str
    identifier: str
    smp_type: str

    @classmethod
    def of(cls, order: Order) -> "OrderRequest":
        """What would ask for an order like this one."""
        return cls(
            market=order.market,
            is_buy=order.is_buy,
            kind=order.kind,
            price_e8=order.price_e8,
            total_e8=None if order.total is None else order.total // ATOMS_PER_LOT,
            lots=order.lots,
            time_in_force=order.time_in_force,
            identifier=order.identifier,
            smp_type=order.smp_type,
        )

    @property
    def side(self) -> str:
        """As error names end."""
        return "bid" if self.is_buy else "ask"

    @property
    def quote(self) -> str:
        """The currency it is paid in."""
        return self.market.partition("-")[0]


def identifier_of(value: object) -> str:
    """An identifier, `""` where there is none; raises `OrderRefused` for one that cannot be used."""
    if value is None:
        return ""
    if not isinstance(value, str) or not 1 <= len(value) <= 64:
        raise OrderRefused("invalid_parameter", "identifier 는 1~64자의 문자열이어야 합니다.")
    return value


def read(body: Mapping[str, Any], smp_default: str = "") -> OrderRequest:
    """Check shape and combination of the fields; raises `OrderRefused`.

    `smp_default` is one of `SMP_DEFAULTS`.
    """
    market = body.get("market")
    if not isinstance(market, str) or not market:
        raise OrderRefused("validation_error", "market is missing")
    side, kind = body.get("side"), body.get("ord_type")
    if side not in ("bid", "ask"):
        raise OrderRefused("validation_error", "side is missing, side does not have a valid value")
    if kind not in _KINDS:
        raise OrderRefused("validation_error", "ord_type is missing, ord_type does not have a valid value")
    is_buy = side == "bid"
    price, lots = _number(body, "price"), _number(body, "volume")
    needs_price = kind == "limit" or (is_buy and kind in {"price", "best"})
    needs_lots = kind == "limit" or (not is_buy and kind in {"market", "best"})
    is_wrong_side = (kind == "price" and not is_buy) or (kind == "market" and is_buy)
    if is_wrong_side or needs_price != (price is not None) or needs_lots != (lots is not None):
        raise OrderRefused(f"create_{side}_error")
    is_total = is_buy and kind != "limit"
    return OrderRequest(
        market=market,
        is_buy=is_buy,
        kind=cast("Kind", kind),
        price_e8=None if is_total else price,
        total_e8=price if is_total else None,
        lots=lots,
        time_in_force=_time_in_force(body, str(kind)),
        identifier=identifier_of(body.get("identifier")),
        smp_type=_smp(body, smp_default),
    )


def _number(body: Mapping[str, Any], name: str) -> int | None:
    """A positive decimal text with at most eight decimals, in 1e-8."""
    value = body.get(name)
    if value is None:
        return None
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    match = _NUMBER.fullmatch(text)
    if match is None or len((match[1] or "").rstrip("0")) > 8:
        raise OrderRefused("validation_error", f"{name} does not have a valid value")
    whole, _, fraction = text.partition(".")
    number = int(whole) * E8 + int(fraction[:8].ljust(8, "0"))
    if number <= 0:
        raise OrderRefused("validation_error", f"{name} does not have a valid value")
    return number


def _time_in_force(body: Mapping[str, Any], kind: str) -> str:
    value = body.get("time_in_force")
    allowed = {"limit": (None, *_TIMES), "best": ("ioc", "fok")}.get(kind, (None,))
    if value not in allowed:
        raise OrderRefused("invalid_time_in_force")
    return value or ""


def _smp(body: Mapping[str, Any], default: str) -> str:
    value = body.get("smp_type")
    is_post_only = body.get("time_in_force") == "post_only"
    if value is None:
        return "none" if default and is_post_only else default
    if value not in (*_SMP, "none") or (value == "none" and not default):
        raise OrderRefused("invalid_parameter", "smp_type does not have a valid value")
    if is_post_only and value != "none":
        raise OrderRefused("invalid_post_only")
    return str(value)


def check_amounts(request: OrderRequest, at_ms: int, bids: list[Level], asks: list[Level]) -> None:
    """Tick, smallest and largest total, and the liquidity that market orders need; raises `OrderRefused`."""
    side = request.side
    if request.price_e8 is not None and not is_on_tick(request.market, request.price_e8, at_ms):
        raise OrderRefused(f"invalid_price_{side}")
    total = _total_atoms(request, bids)
    if total < MINIMUM_E8[request.quote] * ATOMS_PER_LOT:
        raise OrderRefused(f"under_min_total_{side}")
    if total > MAXIMUM_E8[request.quote] * ATOMS_PER_LOT:
        most = f"{MAXIMUM_E8[request.quote] // E8} {request.quote}"
        raise OrderRefused(f"over_krw_funds_{side}", f"최대 주문 가능 금액 {most} 보다 작은 주문을 입력해 주세요.")
    if request.kind == "price":
        shown = sum(level.price_e8 * level.lots for level in asks) * NOTIONAL
        if total > shown:
            raise OrderRefused("volume_too_large")
    elif request.kind == "market" and (request.lots or 0) > sum(level.lots for level in bids):
        raise OrderRefused("volume_too_large")


def _total_atoms(request: OrderRequest, bids: list[Level]) -> int:
    """The order's worth: price times volume, the given total, or for a market sale the best bid times volume."""
    if request.total_e8 is not None:
        return request.total_e8 * ATOMS_PER_LOT
    assert request.lots is not None
    price = request.price_e8 if request.price_e8 is not None else (bids[0].price_e8 if bids else 0)
    return price * request.lots * NOTIONAL
