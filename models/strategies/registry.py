"""The strategies by name, one line each; further ones come from a folder outside (`models.strategies.folder`)."""

from collections.abc import Mapping

import msgspec

from models.strategies.order_book import OrderBook
from models.strategies.rule import Strategy

Kinds = Mapping[str, type[Strategy]]

STRATEGIES: Kinds = {
    "order-book": OrderBook,
}


def make(kind: str, parameters: Mapping[str, str], kinds: Kinds = STRATEGIES) -> Strategy:
    """Build a strategy from its written parameters; raises `ValueError` with what is wrong."""
    if kind not in kinds:
        raise ValueError(f"there is no strategy {kind!r}, there are {', '.join(sorted(kinds))}")
    chosen = kinds[kind]
    names = chosen.__struct_fields__
    if unknown := sorted(set(parameters) - set(names)):
        raise ValueError(f"the strategy {kind!r} has no parameter {unknown[0]!r}, it has {', '.join(names)}")
    try:
        return msgspec.convert(dict(parameters), chosen, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"the strategy {kind!r}: {error}") from error
