"""What the sandbox's parts ask of a market, whichever kind it is (synthetic, recorded, followed), and its frames.

A feed owns the books; the sockets only pass its frames on, and the exchange only reads and takes from its books.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from streams.market.matching import Level

DEPTHS = (1, 5, 15, 30)


class Style(NamedTuple):
    """How a frame is spelled: short keys or long ones, in an array or not, levels, snapshot or not, price grouping."""

    is_simple: bool
    is_list: bool
    depth: int = 30
    is_snapshot: bool = False
    level_e8: int = 0


class Print(NamedTuple):
    """One trade by others, as the trades call lists it."""

    trade_ms: int
    price_e8: int
    lots: int
    is_buy: bool
    sequential_id: int


class Frame(NamedTuple):
    """One message of the stream; `spell` gives its bytes in a style (cached by the feed, shared by subscribers)."""

    kind: str
    market: str
    exchange_ms: int
    spell: Callable[[Style], bytes]
    print: Print | None = None
    """What a trade frame tells; None for books, and for a recorded trade that repeats another or cannot be read."""
    source: str = ""
    """The record it came from, for the fills that happen on it: topic/partition/offset, or file and line."""


class MarketRow(NamedTuple):
    """One line of market/all and of the instruments call."""

    market: str
    korean_name: str
    english_name: str
    tick_e8: int


class BookView(NamedTuple):
    """The newest book of a market, best first; its time names it in the fill's record."""

    bids: list[Level]
    asks: list[Level]
    exchange_ms: int
    source: str = ""
    """The record it came from, as in `Frame`."""


class Feed(Protocol):
    """A market."""

    kind: str
    is_synthetic: bool
    """Whether the book is ours to change: what is taken from it is gone for everybody."""
    has_queue: bool
    """Whether resting orders stand behind those of a real book (recorded, followed)."""
    warm_ms: int | None
    """Market time at which the warm-up ended; None before, and where there is none."""
    closing_e8: Callable[[str, int], int] | None
    """Closing price before a day (market, start of the day) for trade frames; without it `opening_e8` stands there."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be traded here at all, whatever the market."""

    @property
    def is_warm(self) -> bool:
        """Whether the market runs at its live pace."""

    @property
    def is_ended(self) -> bool:
        """Whether the market will never send a frame again."""

    @property
    def clock_ms(self) -> int:
        """The exchange's clock: the time of the newest frame, or the simulated now."""

    def markets(self) -> list[MarketRow]:
        """What the exchange lists."""

    def book(self, market: str) -> BookView | None:
        """The newest book, or None before the first one."""

    def take(self, market: str, taken: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Take these sizes out of the book, where the market is ours to change; gives the frames that follow."""

    def cross(self, market: str, traded: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """Users traded with each other, the taker on this side; gives the frames of it where the market is ours."""

    def opening_e8(self, market: str) -> int:
        """Price of the day's first trade, as `prev_closing_price`."""

    def snapshots(self, market: str, kind: str) -> list[Frame]:
        """Snapshot frames for a new subscription; none where the feed is a recording."""
