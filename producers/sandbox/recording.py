"""A recorded market: raw log files (`receive time in seconds: b'...'`), played verbatim with their own spacing.

Called by the sandbox server and by the parity checks. It sends no frames of its own, not even snapshots. Lines that are
no frames are skipped and counted; a frame line whose bytes are no JSON object is passed on as it is.
"""

import ast
import gzip
import io
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from infra.errors import BadSettings
from producers.sandbox.feeds import BookView, Frame, MarketRow, Print, Style
from streams.market.matching import Level
from streams.market.ticks import E8, tick_e8

_LINE = re.compile(rb"^(\d+(?:\.\d+)?): (b'.*'|b\".*\")\s*$")
_KEPT_PRINTS = 2_000
_SHORT = {"ty": "type", "cd": "code", "tms": "timestamp"}


class Line(NamedTuple):
    """One frame of a recording: when it was received, its bytes, and what it is (`""` where that cannot be read)."""

    received_s: float
    payload: bytes
    kind: str
    market: str
    exchange_ms: int
    body: dict[str, Any] | None


def read_lines(path: Path, skipped: Counter[str]) -> Iterator[Line]:
    """The frames of a file, plain or gzip; counts what is skipped by reason."""
    with _open(path) as file:
        for raw in file:
            match = _LINE.match(raw)
            if match is None:
                skipped["no frame"] += 1
                continue
            try:
                payload = ast.literal_eval(match[2].decode("ascii", "strict"))
            except (ValueError, SyntaxError, UnicodeDecodeError):
                skipped["no bytes"] += 1
                continue
            line = _line(float(match[1]), payload)
            if line.body is not None and not line.kind:
                skipped["no market data"] += 1  # {"status":"UP"} and error objects
                continue
            yield line


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedIOBase]:
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file


def _line(received_s: float, payload: bytes) -> Line:
    try:
        body = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Line(received_s, payload, "", "", 0, None)
    if isinstance(body, list) and body and isinstance(body[0], dict):
        body = body[0]
    if not isinstance(body, dict):
        return Line(received_s, payload, "", "", 0, None)
    kind = body.get("type", body.get("ty"))
    market = body.get("code", body.get("cd"))
    at_ms = body.get("timestamp", body.get("tms"))
    if not isinstance(kind, str) or not isinstance(market, str):
        return Line(received_s, payload, "", "", 0, body)
    return Line(received_s, payload, kind, market, at_ms if isinstance(at_ms, int) else 0, body)


def _e8(value: float) -> int:
    return int(Decimal(repr(value)).scaleb(8).to_integral_value())


class Recording:
    """A file as a market. `frames` yields its lines; the newest book of each market stays readable for orders."""

    kind = "recording"
    is_synthetic = False
    is_closed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()
        self.frames_by_kind: Counter[str] = Counter()
        self._rows: dict[str, int] = {}
        self._newest: dict[str, dict[str, Any]] = {}
        self._prints: dict[str, deque[Print]] = {}
        self._clock_ms = 0
        self.is_warm = True
        self.warm_ms: int | None = None
        self.is_ended = False
        try:
            self._scan()
        except OSError as error:
            raise BadSettings(f"the recording {path} cannot be read: {error}") from error
        if not self.frames_by_kind:
            raise BadSettings(f"{path} holds no frame of the form `seconds: b'...'`")

    def _scan(self) -> None:
        """One pass before playing: which markets there are, at which prices, how many frames of each kind."""
        for line in read_lines(self.path, self.skipped):
            self.frames_by_kind[line.kind or "other"] += 1
            if line.market and line.market not in self._rows and line.body is not None:
                price = _price_of(line.body)
                if price > 0:
                    self._rows[line.market] = price
            if not self._clock_ms:
                self._clock_ms = line.exchange_ms

    def frames(self) -> Iterator[tuple[Line, Frame | None]]:
        """Each line in order with its frame; None for bytes that cannot be read. Updates the newest books."""
        for line in read_lines(self.path, Counter()):
            if line.body is None:
                yield line, None
                continue
            self._clock_ms = max(self._clock_ms, line.exchange_ms)
            if line.kind == "orderbook":
                self._newest[line.market] = line.body
            elif line.kind == "trade":
                self._remember(line)
            payload = line.payload

            def spell(_style: Style, payload: bytes = payload) -> bytes:
                return payload

            yield line, Frame(line.kind, line.market, line.exchange_ms, spell)

    def _remember(self, line: Line) -> None:
        body = line.body or {}
        trade_ms = body.get("trade_timestamp", body.get("ttms", line.exchange_ms))
        price, size = body.get("trade_price", body.get("tp")), body.get("trade_volume", body.get("tv"))
        sid = body.get("sequential_id", body.get("sid"))
        is_buy = body.get("ask_bid", body.get("ab")) == "BID"
        if isinstance(price, int | float) and isinstance(size, int | float) and isinstance(sid, int):
            prints = self._prints.setdefault(line.market, deque(maxlen=_KEPT_PRINTS))
            prints.append(Print(int(trade_ms), _e8(price), _e8(size), is_buy, sid))

    # --- what the exchange asks -------------------------------------------------------------------------------

    @property
    def clock_ms(self) -> int:
        """Time of the newest frame."""
        return self._clock_ms

    def markets(self) -> list[MarketRow]:
        """The recording's codes, with the tick of their first price at the recording's date."""
        rows = []
        for market, price in self._rows.items():
            try:
                tick = tick_e8(market, price, self._clock_ms)
            except KeyError:
                tick = 1
            rows.append(MarketRow(market, market, market, tick))
        return rows

    def book(self, market: str) -> BookView | None:
        """The newest recorded book; padded (zero-price) levels are cut."""
        body = self._newest.get(market)
        if body is None:
            return None
        units = body.get("orderbook_units", body.get("obu")) or []
        asks = [Level(_e8(u.get("ask_price", u.get("ap"))), _e8(u.get("ask_size", u.get("as")))) for u in units]
        bids = [Level(_e8(u.get("bid_price", u.get("bp"))), _e8(u.get("bid_size", u.get("bs")))) for u in units]
        at_ms = int(body.get("timestamp", body.get("tms", 0)))
        return BookView([x for x in bids if x.price_e8], [x for x in asks if x.price_e8], at_ms)

    def take(self, market: str, taken: Sequence[Level], *, is_buy: bool) -> list[Frame]:
        """A recording does not change: what was taken is kept per market by the exchange, not here."""
        _ = market, taken, is_buy
        return []

    def prints(self, market: str) -> Sequence[Print]:
        """The newest recorded trades."""
        return self._prints.get(market, ())

    def opening_e8(self, market: str) -> int:
        """The market's first price."""
        return self._rows.get(market, E8)

    def snapshots(self, market: str, kind: str) -> list[Frame]:
        """None: a recording is played verbatim."""
        _ = market, kind
        return []


def _price_of(body: dict[str, Any]) -> int:
    price = body.get("trade_price", body.get("tp"))
    units = body.get("orderbook_units", body.get("obu"))
    if price is None and isinstance(units, list) and units and isinstance(units[0], dict):
        price = units[0].get("ask_price", units[0].get("ap"))
    return _e8(price) if isinstance(price, int | float) and price > 0 else 0
