"""Reads a websocket request frame (ticket, types, format) as the exchange does. Pure; called by the sockets.

A new request replaces the connection's whole subscription. Unknown codes in a valid frame are ignored; what is
malformed raises `Refused` with the exchange's own error object, after which the connection is closed with 1000.
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from producers.sandbox.feeds import DEPTHS

FORMATS = {"DEFAULT": (False, False), "SIMPLE": (True, False), "JSON_LIST": (False, True), "SIMPLE_LIST": (True, True)}
"""Format -> (short keys, inside an array)."""
CANDLE_KINDS = tuple(f"candle.{unit}" for unit in ("1s", "1m", "3m", "5m", "10m", "15m", "30m", "60m", "240m"))
QUOTATION_KINDS = ("ticker", "trade", "orderbook", *CANDLE_KINDS)
PRIVATE_KINDS = ("myOrder", "myAsset")
_FORMAT_TEXT = "Format 이 맞지 않습니다."
_TICKET_TEXT = "티켓이 존재하지 않거나, 유효하지 않습니다."


class Refused(Exception):  # noqa: N818 - named by what happened
    """The request was not understood; `frame` is the exchange's answer."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        # As captured: NO_TICKET has the name first, the others the message.
        body = {"name": name, "message": text} if name == "NO_TICKET" else {"message": text, "name": name}
        self.name = name
        self.frame = json.dumps({"error": body}, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One type object: which codes (code -> levels), and whether snapshot, stream or both are wanted."""

    kind: str
    codes: dict[str, int]
    has_snapshot: bool
    has_stream: bool
    level: int | float = 0
    """Price step of a grouped order book, 0 without grouping."""

    @property
    def level_e8(self) -> int:
        """The step as a price of 1e-8."""
        return int(Decimal(str(self.level)).scaleb(8))


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request frame."""

    ticket: str
    wanted: tuple[Wanted, ...]
    is_simple: bool
    is_list: bool
    is_listing: bool
    """Whether it asks for LIST_SUBSCRIPTIONS instead of subscribing."""


def read(text: str | bytes, kinds: tuple[str, ...]) -> Request:
    """Read one request frame; raises `Refused`."""
    try:
        parts = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("WRONG_FORMAT", _FORMAT_TEXT) from None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise Refused("WRONG_FORMAT", _FORMAT_TEXT)
    ticket = parts[0].get("ticket")
    if not isinstance(ticket, str) or not ticket:
        raise Refused("NO_TICKET", _TICKET_TEXT)
    is_simple, is_list = _format(parts[1:])
    if any("method" in part for part in parts[1:]):
        if any(part.get("method") != "LIST_SUBSCRIPTIONS" for part in parts[1:] if "method" in part):
            raise Refused("INVALID_PARAM", "지원하지 않는 method 입니다.")
        return Request(ticket, (), is_simple, is_list, is_listing=True)
    wanted = tuple(_wanted(part, kinds) for part in parts[1:] if set(part) != {"format"})
    if not wanted:
        raise Refused("NO_TYPE", "type 이 존재하지 않습니다.")
    return Request(ticket, wanted, is_simple, is_list, is_listing=False)


def _format(parts: list[dict[str, Any]]) -> tuple[bool, bool]:
    names = [part["format"] for part in parts if "format" in part]
    if not names:
        return FORMATS["DEFAULT"]
    if not isinstance(names[-1], str) or names[-1] not in FORMATS:
        raise Refused("INVALID_PARAM", f"{names[-1]} 은 지원하지 않는 포맷입니다.")
    return FORMATS[names[-1]]


def _wanted(part: dict[str, Any], kinds: tuple[str, ...]) -> Wanted:
    kind = part.get("type")
    if kind is None:
        raise Refused("NO_TYPE", "type 이 존재하지 않습니다.")
    if not isinstance(kind, str) or kind not in kinds:
        raise Refused("INVALID_PARAM", f"{kind} 은 지원하지 않는 타입입니다.")
    codes = _codes(part, kind)
    only_snapshot = _flag(part, "is_only_snapshot", "isOnlySnapshot")
    only_stream = _flag(part, "is_only_realtime", "isOnlyRealtime")
    level = _level(part) if kind == "orderbook" else 0
    return Wanted(kind, codes, has_snapshot=not only_stream, has_stream=not only_snapshot, level=level)


def _codes(part: dict[str, Any], kind: str) -> dict[str, int]:
    codes = part.get("codes")
    if kind == "myAsset" and codes is not None:
        raise Refused("WRONG_FORMAT", _FORMAT_TEXT)
    if codes is None or codes == []:
        if kind in PRIVATE_KINDS:
            return {}
        raise Refused("NO_CODES", "codes 가 존재하지 않습니다.")
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise Refused("WRONG_FORMAT", _FORMAT_TEXT)
    return dict(_depth_of(code) for code in codes)


def _depth_of(code: str) -> tuple[str, int]:
    """`KRW-BTC.15` -> 15 levels; a number that is not offered gives all 30."""
    market, _, suffix = code.partition(".")
    return market, int(suffix) if suffix in {str(depth) for depth in DEPTHS} else 30


def _level(part: dict[str, Any]) -> int | float:
    level = part.get("level", 0)
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level < 1e12:
        raise Refused("WRONG_FORMAT", _FORMAT_TEXT)
    return level


def _flag(part: dict[str, Any], name: str, legacy: str) -> bool:
    value = part.get(name, part.get(legacy, False))
    if not isinstance(value, bool):
        raise Refused("WRONG_FORMAT", _FORMAT_TEXT)
    return value


def list_answer(ticket: str, wanted: tuple[Wanted, ...], *, is_simple: bool) -> bytes:
    """The answer to LIST_SUBSCRIPTIONS."""
    method, result, kind, codes, level, ticket_key = (
        ("mthd", "rslt", "ty", "cds", "lv", "tckt")
        if is_simple
        else ("method", "result", "type", "codes", "level", "ticket")
    )
    rows: list[dict[str, Any]] = []
    for item in wanted:
        row: dict[str, Any] = {kind: item.kind}
        if item.kind != "myAsset":
            row[codes] = list(item.codes)
        if item.kind == "orderbook":
            row[level] = item.level
        rows.append(row)
    return msgspec.json.encode({method: "LIST_SUBSCRIPTIONS", result: rows, ticket_key: ticket})
