"""An account's settings in people's hands: fields by dotted names, each checked alone, and what changes. Pure.

Called by `account_verbs`. A field that is refused is named with its reason; the others are not changed either.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from consumers.execute.account_words import Language, words
from models.strategies.registry import Kinds, make
from streams.messages import AccountSettings, ExitRules, RiskLimits, StrategySettings

FIXED = frozenset({"account", "pocket", "venue", "event_ms"})
SECTIONS: Mapping[str, type[msgspec.Struct]] = {"exits": ExitRules, "limits": RiskLimits}
PLACES = 8
MOST = Decimal(10) ** 15
DAY_MS = 86_400_000
MARKET = re.compile(r"[A-Z0-9]{2,10}-[A-Z0-9]{1,20}")
NAME = re.compile(r"[A-Za-z0-9_-]{0,64}")
SMALLEST = Decimal("0.01")
BOUNDS: Mapping[str, tuple[Decimal | int | float, Decimal | int | float]] = {
    "threshold_percent": (-100, 100), "hysteresis_percent": (-100, 100), "fee_percent": (0, 10),
    "stop_percent": (SMALLEST, 100), "take_profit_percent": (SMALLEST, 1000), "trailing_percent": (SMALLEST, 100),
    "price_band_percent": (SMALLEST, 100), "market_share_percent": (SMALLEST, 100), "cancel_ratio": (0, 1),
    "entry_funds": (1, MOST), "order_funds": (1, MOST), "maximum_positions": (0, 1000), "cooldown_ms": (0, 7 * DAY_MS),
    "time_stop_ms": (1000, 365 * DAY_MS), "horizons_ms": (100, DAY_MS), "orders_per_day": (0, 1_000_000),
}  # fmt: skip
"""Of fields that have bounds of their own, in whatever section; other numbers: from 0 on."""


class Wrong(NamedTuple):
    """A field that is refused: word and values of `account_words`."""

    field: str
    word: str
    values: Mapping[str, object] = {}

    def text(self, language: Language) -> str:
        """In words."""
        return f"{self.field} ({words(self.word, language, **self.values)})"


def flat(wanted: Mapping[str, object]) -> dict[str, object]:
    """`{"exits": {"trailing_percent": 2}}` as `{"exits.trailing_percent": 2}`; strategies stay a list."""
    found: dict[str, object] = {}
    for name, value in wanted.items():
        if name in SECTIONS and isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            found[name] = value
    return found


def change(
    settings: AccountSettings, wanted: Mapping[str, object], kinds: Kinds
) -> tuple[AccountSettings, list[Wrong]]:
    """The settings with the wanted fields in them, and those that are refused."""
    wrong: list[Wrong] = []
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for field, value in flat(wanted).items():
        given = None if value == "none" else value
        section, _, name = field.rpartition(".")
        kind = SECTIONS.get(section) if section else AccountSettings
        types = {} if kind is None else _types(kind)
        if name not in types or name in SECTIONS:
            wrong.append(Wrong(field, "no-field"))
        elif not section and name in FIXED:
            wrong.append(Wrong(field, "fixed"))
        else:
            found = list(_problems(field, given, types[name], kinds))
            wrong += found
            if not found:
                (inner.setdefault(section, {}) if section else changes)[name] = _convert(given, types[name])
    for section, values in inner.items():
        changes[section] = msgspec.structs.replace(getattr(settings, section), **values)
    return msgspec.structs.replace(settings, **changes), wrong


def shown(settings: AccountSettings) -> dict[str, str]:
    """Every field by its dotted name, as text; null is `none`."""
    plain = flat(msgspec.to_builtins(settings))
    return {name: _text(value) for name, value in plain.items() if name not in {"type", "event_ms"}}


def differences(before: AccountSettings, after: AccountSettings) -> list[tuple[str, str, str]]:
    """Field, value before, value after."""
    old, new = shown(before), shown(after)
    return [(name, old[name], new[name]) for name in new if old[name] != new[name]]


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | dict):
        return msgspec.json.encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {one.name: one.type for one in msgspec.structs.fields(kind)}


def _convert(given: object, kind: Any) -> Any:
    return msgspec.convert(given, kind, strict=False)


# --- checks -----------------------------------------------------------------------------------------------------------


def _problems(field: str, given: object, kind: Any, kinds: Kinds) -> Iterator[Wrong]:
    if field == "strategies" and isinstance(given, Sequence) and not isinstance(given, str):
        unknown = list(_unknown(given))
        yield from unknown
        if unknown:
            return
    try:
        value = _convert(given, kind)
    except msgspec.ValidationError as error:
        yield Wrong(field, "type", {"text": str(error)})
        return
    if field == "strategies":
        yield from _of_strategies(value, kinds)
    else:
        yield from _of_value(field, value)


def _of_value(field: str, value: object) -> Iterator[Wrong]:
    name = field.rpartition(".")[2]
    if name == "markets" and isinstance(value, list):
        yield from _of_list(field, value, lambda one: [] if MARKET.fullmatch(one) else [_market(field, one)])
    elif name == "horizons_ms" and isinstance(value, list):
        if not value:
            yield Wrong(field, "empty")
        yield from _of_list(field, value, lambda one: list(_of_number(field, one)))
    elif name in {"user", "id"} and isinstance(value, str) and not NAME.fullmatch(value):
        yield Wrong(field, "name")
    elif isinstance(value, Decimal | int | float) and not isinstance(value, bool):
        yield from _of_number(field, value)


def _of_number(field: str, value: Decimal | float) -> Iterator[Wrong]:
    low, high = BOUNDS.get(field.rpartition(".")[2], (0, MOST))
    is_finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    if not is_finite or not low <= value <= high:
        yield Wrong(field, "range", {"low": low, "high": high})
    elif isinstance(value, Decimal) and value != round(value, PLACES):
        yield Wrong(field, "too-fine", {"places": PLACES})


def _of_list(field: str, values: list[Any], check: Callable[[Any], list[Wrong]]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        yield from check(value)
        if value in values[:number]:
            yield Wrong(field, "twice", {"text": value})


def _market(field: str, text: object) -> Wrong:
    return Wrong(field, "market", {"text": text})


def _of_strategies(found: list[StrategySettings], kinds: Kinds) -> Iterator[Wrong]:
    for number, one in enumerate(found):
        place = f"strategies[{number}]"
        for name in ("id", "entry_funds", "markets"):
            yield from _of_value(f"{place}.{name}", getattr(one, name))
        for name in ExitRules.__struct_fields__ if one.exits is not None else ():
            yield from _of_value(f"{place}.exits.{name}", getattr(one.exits, name))
        if one.id in [other.id for other in found[:number]]:
            yield Wrong(f"{place}.id", "twice", {"text": repr(one.id)})
        try:
            make(one.kind, one.parameters, kinds)
        except ValueError as error:
            yield Wrong(f"{place}.kind", "strategy", {"text": str(error)})


def _unknown(given: Sequence[object]) -> Iterator[Wrong]:
    """Names in strategies that no field has: a reader of messages passes over those."""
    for number, one in enumerate(given):
        if isinstance(one, Mapping):
            exits = one.get("exits")
            names = [name for name in one if name not in StrategySettings.__struct_fields__]
            names += [f"exits.{name}" for name in (exits if isinstance(exits, Mapping) else ())
                      if name not in ExitRules.__struct_fields__]  # fmt: skip
            for name in names:
                yield Wrong(f"strategies[{number}].{name}", "no-field")
