"""Reads the query parameters of lists and batch cancels, in the exchange's terms. Pure; called by `rest_orders`.

Anything that is not as documented raises `OrderRefused`.
"""

from datetime import datetime
from typing import NamedTuple

from multidict import MultiMapping

from infra.upbit.wire import KST
from producers.sandbox.order_requests import FEE_E4
from producers.sandbox.refusals import OrderRefused
from streams.market.matching import Order

Query = MultiMapping[str]

_DAY_MS = 86_400_000
_MOST_PAIRS = 20


def states(query: Query, allowed: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    """`state` or `states[]`, never both."""
    one, many = query.getall("state", []), query.getall("states[]", [])
    if (one and many) or any(state not in allowed for state in one + many):
        raise OrderRefused("invalid_parameter")
    return tuple(one + many) or default


def whole(query: Query, name: str, default: int, largest: int) -> int:
    """A positive whole number; what is above the largest is cut to it."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise OrderRefused("invalid_parameter")
    return min(int(text), largest)


def is_ascending(query: Query) -> bool:
    """`order_by`: oldest first where it is `asc`."""
    return choice(query, "order_by", ("desc", "asc")) == "asc"


def choice(query: Query, name: str, allowed: tuple[str, ...]) -> str:
    """One of some words, the first by default."""
    value = query.get(name, allowed[0])
    if value not in allowed:
        raise OrderRefused("invalid_parameter")
    return value


def window(query: Query, now_ms: int) -> tuple[int, int]:
    """`start_time` to `end_time` in milliseconds, at most seven days; the missing end of it lies seven days away."""
    start, end = _moment(query, "start_time"), _moment(query, "end_time")
    if end is None:
        end = now_ms if start is None else start + 7 * _DAY_MS
    if start is None:
        start = end - 7 * _DAY_MS
    if not 0 <= end - start <= 7 * _DAY_MS:
        raise OrderRefused("invalid_parameter")
    return start, end


def _moment(query: Query, name: str) -> int | None:
    """ISO-8601 or milliseconds; a time without zone is Korean."""
    text = query.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 15:
        return int(text)
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)  # an unescaped + is a space
        return int((moment if moment.tzinfo else moment.replace(tzinfo=KST)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise OrderRefused("invalid_parameter") from None


class Ids(NamedTuple):
    """Which orders are meant: by uuids or by identifiers."""

    uuids: frozenset[str]
    identifiers: frozenset[str]

    def name(self, order: Order) -> bool:
        """Whether they mean this order."""
        return order.uuid in self.uuids or order.identifier in self.identifiers


def ids(query: Query, most: int) -> Ids:
    """`uuids[]` or `identifiers[]`, one of them and not too many."""
    uuids, identifiers = query.getall("uuids[]", []), query.getall("identifiers[]", [])
    if bool(uuids) == bool(identifiers) or len(uuids) + len(identifiers) > most or "" in uuids + identifiers:
        raise OrderRefused("invalid_parameter")
    return Ids(frozenset(uuids), frozenset(identifiers))


class Batch(NamedTuple):
    """Which open orders a batch cancel means."""

    quotes: frozenset[str]
    pairs: frozenset[str]
    excluded: frozenset[str]
    side: str
    most: int
    is_ascending: bool

    def means(self, order: Order) -> bool:
        """Whether it is one of them; excluded pairs win."""
        is_side = self.side in {"all", "bid" if order.is_buy else "ask"}
        is_pair = not self.pairs or order.market in self.pairs
        is_quote = not self.quotes or order.quote in self.quotes
        return is_side and is_pair and is_quote and order.market not in self.excluded


def batch(query: Query) -> Batch:
    """`quote_currencies` or `pairs`, `excluded_pairs`, `cancel_side`, `count`, `order_by`."""
    quotes, pairs = _listed(query, "quote_currencies"), _listed(query, "pairs")
    excluded = _listed(query, "excluded_pairs") | _listed(query, "exclude_pairs")  # the older spelling
    if (quotes and pairs) or not quotes <= FEE_E4.keys() or max(len(pairs), len(excluded)) > _MOST_PAIRS:
        raise OrderRefused("invalid_parameter")
    side = choice(query, "cancel_side", ("all", "bid", "ask"))
    return Batch(quotes, pairs, excluded, side, whole(query, "count", 20, 300), is_ascending(query))


def _listed(query: Query, name: str) -> frozenset[str]:
    text = query.get(name)
    if text is None:
        return frozenset()
    names = frozenset(text.split(","))
    if "" in names:
        raise OrderRefused("invalid_parameter")
    return names
