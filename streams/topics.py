"""The topics: name, partitions, key, retention, and which messages may stand in each. Pure; read by every room.

Counts are fixed at creation and never change later: a key's partition must stay where it is. Every topic uses
LogAppendTime, so that recordings from other years and markets at a hundred times live speed are kept.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import msgspec

from streams import messages as m

DAY_MS = 86_400_000
BY_MARKET = 12
BY_POCKET = 12


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of message in one place."""

    name: str
    kinds: tuple[type[m.Message], ...]
    partitions: int
    key: Literal["market", "pocket", "account", "process", "none"]
    days: int | None
    """Retention in days; None keeps everything."""
    is_flushed: bool = False
    is_compact: bool = False

    @property
    def config(self) -> dict[str, str]:
        """Kafka's topic settings."""
        settings = {
            "message.timestamp.type": "LogAppendTime",
            "cleanup.policy": "compact" if self.is_compact else "delete",
        }
        if not self.is_compact:
            settings["retention.ms"] = str(self.days * DAY_MS) if self.days else "-1"
        if self.is_flushed:
            settings["flush.messages"] = "1"
        return settings


_DATA = (m.Heartbeat, m.Hole)

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("orderbooks", (m.OrderBook, *_DATA), BY_MARKET, "market", 3),
        Topic("trades", (m.Trade, *_DATA), BY_MARKET, "market", 3),
        Topic("markets", (m.Market,), 1, "market", 30),
        Topic("feed-events", (m.FeedEvent,), 1, "none", 30),
        Topic("quotes", (m.Quote,), 1, "market", 7),
        Topic("features", (m.Features,), BY_MARKET, "market", 7),
        Topic("signals", (m.Signal,), BY_MARKET, "market", 30),
        Topic(
            "controls",
            (
                m.AccountSettings, m.TradingStarted, m.TradingStopped, m.Halt, m.Warmed, m.LedgerAccepted,
                m.AccountResumed,
            ),
            1,
            "account",
            None,
            is_flushed=True,
        ),
        Topic("commands", (m.KeyDeposited, m.KeyRemoved, m.KeyCheckRequested), 1, "account", 30),
        Topic("order-requests", (m.OrderRequested, m.RequestChanged, m.RequestCancelled), BY_POCKET, "pocket", 30),
        Topic("order-intents", (m.OrderIntent, m.CancelIntent), BY_POCKET, "pocket", 30),
        Topic(
            "order-events",
            (
                m.OrderSent, m.OrderAccepted, m.OrderFilled, m.OrderCancelled, m.OrderRejected, m.OrderUnknown,
                m.OrderExpired, m.Veto, m.RequestTold, m.KeyTold, m.AccountPaused,
            ),
            BY_POCKET,
            "pocket",
            None,
            is_flushed=True,
        ),
        Topic("manifests", (m.RunManifest,), 1, "process", None),
        Topic("trade-inputs", (m.TradeInput,), BY_POCKET, "pocket", 30, is_flushed=True),
        Topic("account-states", (m.AccountState,), BY_POCKET, "pocket", None, is_compact=True),
        Topic("balances", (m.Balance,), BY_POCKET, "pocket", 30),
        Topic("model-events", (m.ModelEvent, m.Refusals), 1, "none", None),
        Topic("logs", (m.LogLine,), 4, "process", 3),
        Topic("dead-letters", (m.DeadLetter,), 4, "process", 30),
    )
}  # fmt: skip


@cache
def decoder(topic: str) -> "msgspec.json.Decoder[Any]":
    """The decoder of a topic's messages. Its `decode` raises `msgspec.DecodeError` (also for an unknown tag)."""
    kinds = TOPICS[topic].kinds
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union |= kind
    return msgspec.json.Decoder(union)


def decode(topic: str, value: bytes) -> Any:
    """Read one record of `topic`; raises `msgspec.DecodeError`, whatever is wrong with the bytes."""
    try:
        return decoder(topic).decode(value)
    except (UnicodeDecodeError, RecursionError) as error:  # msgspec lets these through
        raise msgspec.DecodeError(str(error)) from error
