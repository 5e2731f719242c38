"""What the slow oracle knows of one order: its amounts from Upbit's documented arithmetic, and what makes it refused.

Called by `oracle`, `operations` and `sequence`. Decimals only; it must import nothing of `streams.market`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

ZERO = Decimal(0)
LOT = Decimal("1e-8")
FEES = {"KRW": Decimal("0.0005"), "BTC": Decimal("0.0025")}
SMALLEST = {"KRW": Decimal(5000), "BTC": Decimal("0.00005")}
LARGEST = {"KRW": Decimal(1_000_000_000), "BTC": Decimal(10)}
_KRW_TICKS = [
    (Decimal(bound), Decimal(tick))
    for bound, tick in (
        ("2000000", "1000"), ("1000000", "1000"), ("500000", "500"), ("100000", "100"), ("50000", "50"),
        ("10000", "10"), ("5000", "5"), ("1000", "1"), ("100", "1"), ("10", "0.1"), ("1", "0.01"), ("0.1", "0.001"),
        ("0.01", "0.0001"), ("0.001", "0.00001"), ("0", "0.000001"),
    )
]  # fmt: skip
_SMP = {"cancel_maker", "cancel_taker", "reduce"}


def tick_of(market: str, price: Decimal) -> Decimal:
    """Tick size, from the table of 2025-07-31 (only what the check's prices need)."""
    if market.startswith("BTC-"):
        return LOT
    return next(tick for bound, tick in _KRW_TICKS if price >= bound)


def total_of(values: Sequence[Decimal]) -> Decimal:
    """Sum."""
    return sum(values, ZERO)


@dataclass(eq=False, slots=True)
class Wish:
    """An order."""

    account: str
    market: str
    is_buy: bool
    kind: str
    price: Decimal
    """Zero where it has none."""
    total: Decimal
    """Quote money to spend; zero where a volume is given."""
    volume: Decimal
    rule: str
    smp: str
    state: str = "wait"
    has_entered: bool = False
    had_entered: bool = False
    """Before the operation that is being compared."""
    is_cancelling: bool = False
    replacement: "Wish | None" = None
    is_for_the_rest: bool = False
    """Whether the replacement's volume is what is left of this one."""
    fills: list[tuple[Decimal, Decimal, bool]] = field(default_factory=list)
    """Price, size, as maker."""
    prevented: list[tuple[Decimal, Decimal]] = field(default_factory=list)

    @classmethod
    def of(cls, account: str, body: Mapping[str, Any], smp_default: str) -> Self:
        """As a request asks for it."""
        is_buy = body["side"] == "bid"
        has_total = is_buy and body["ord_type"] != "limit"
        price = Decimal(body.get("price") or 0)
        rule = str(body.get("time_in_force") or "")
        return cls(
            account=account,
            market=str(body["market"]),
            is_buy=is_buy,
            kind=str(body["ord_type"]),
            price=ZERO if has_total else price,
            total=price if has_total else ZERO,
            volume=Decimal(body.get("volume") or 0),
            rule=rule,
            smp=str(body.get("smp_type") or ("none" if rule == "post_only" else smp_default)),
        )

    @property
    def quote(self) -> str:
        """The currency it is paid in."""
        return self.market.split("-")[0]

    @property
    def base(self) -> str:
        """The currency that is traded."""
        return self.market.split("-")[1]

    @property
    def lock_currency(self) -> str:
        """What is set aside for it."""
        return self.quote if self.is_buy else self.base

    @property
    def executed(self) -> Decimal:
        """Size filled."""
        return total_of([size for _, size, _ in self.fills])

    @property
    def funds(self) -> Decimal:
        """Quote money of all fills."""
        return total_of([price * size for price, size, _ in self.fills])

    @property
    def paid_fee(self) -> Decimal:
        """Fees of all fills, unrounded."""
        return self.funds * FEES[self.quote]

    @property
    def reserved_fee(self) -> Decimal:
        """Fee set aside at the start."""
        return (self.total or self.price * self.volume) * FEES[self.quote] if self.is_buy else ZERO

    @property
    def prevented_size(self) -> Decimal:
        """What self-match prevention took out of it."""
        return total_of([size for _, size in self.prevented])

    @property
    def remaining(self) -> Decimal:
        """Volume still wanted; 0 for an order in quote money."""
        return ZERO if self.total else self.volume - self.executed - self.prevented_size

    @property
    def prevented_locked(self) -> Decimal:
        """What that set free: volume of a sale, money with its fee of a buy."""
        if not self.is_buy:
            return self.prevented_size
        money = total_of([(price if self.total else self.price) * size for price, size in self.prevented])
        return money * (1 + FEES[self.quote])

    @property
    def locked(self) -> Decimal:
        """Set aside now, or when it ended."""
        if not self.is_buy:
            return self.remaining
        fee = FEES[self.quote]
        if self.total:
            return (self.total - self.funds) * (1 + fee) - self.prevented_locked
        paid_for = self.executed * self.price
        return self.price * self.volume * (1 + fee) - paid_for - self.paid_fee - self.prevented_locked

    @property
    def rests(self) -> bool:
        """Whether what is left stays in the book."""
        return self.kind == "limit" and self.rule in {"", "post_only"}

    @property
    def is_complete(self) -> bool:
        """Whether everything was filled, to the last atom."""
        return self.funds == self.total if self.total else self.executed == self.volume

    def end_if_empty(self) -> None:
        """An order in volume ends when nothing is left; it is done only where nothing was prevented."""
        if self.state == "wait" and not self.total and self.remaining == 0:
            self.state = "done" if self.is_complete else "cancel"

    def accepts(self, price: Decimal, best: Decimal) -> bool:
        """Whether it trades at a price."""
        if self.kind == "best":
            return price == best
        if self.kind == "limit":
            return price <= self.price if self.is_buy else price >= self.price
        return True


def wrong_combination(body: Mapping[str, Any], smp_default: str) -> set[str]:
    """Reasons to refuse that lie in the fields alone."""
    side, kind, rule, smp = body["side"], body["ord_type"], body.get("time_in_force"), body.get("smp_type")
    needs = {
        ("limit", "bid"): {"price", "volume"}, ("limit", "ask"): {"price", "volume"}, ("price", "bid"): {"price"},
        ("market", "ask"): {"volume"}, ("best", "bid"): {"price"}, ("best", "ask"): {"volume"},
    }.get((kind, side))  # fmt: skip
    found: set[str] = set()
    if {name for name in ("price", "volume") if body.get(name) is not None} != needs:
        found.add(f"create_{side}_error")
    rules: dict[str, set[object]] = {"limit": {None, "ioc", "fok", "post_only"}, "best": {"ioc", "fok"}}
    if rule not in rules.get(str(kind), {None}):
        found.add("invalid_time_in_force")
    for name in ("price", "volume"):
        if body.get(name) is not None and (Decimal(body[name]) <= 0 or Decimal(body[name]) % LOT != 0):
            found.add("validation_error")
    if smp not in {None, *_SMP} | ({"none"} if smp_default else set()):
        found.add("invalid_parameter")
    if rule == "post_only" and smp in _SMP:
        found.add("invalid_post_only")
    return found
