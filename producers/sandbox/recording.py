"""A recorded market, played with its own spacing: raw frames verbatim, or books and trades of Parquet or the log.

Called by the sandbox server, the driver and the parity checks. It sends no frames of its own, not even snapshots.
`RawFrames` reads the files that `producers.recordings` knows; what is no frame is skipped and counted, a frame whose
bytes are no JSON object is passed on as it is. `stored` and `logged` hold the other two sources.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from infra.errors import BadSettings
from producers.recordings import Frame as RawFrame
from producers.recordings import Recording as RawRecording
from producers.sandbox.outside import Line, Outside
from streams.market.ticks import e8_of


class Survey(NamedTuple):
    """What is known before playing: each market's first price, the first time, the number of frames per kind."""

    prices_e8: dict[str, int]
    clock_ms: int
    frames: dict[str, int]


class Source(Protocol):
    """Where a recording's lines come from; reading may block and happens in a thread of its own."""

    def survey(self, skipped: Counter[str]) -> Survey:
        """Look it over; raises `BadSettings` where it cannot be played."""

    def lines(self) -> Iterator[Line]:
        """Read it, in the order of receipt."""


class Recording(Outside):
    """A source as a market."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        found = source.survey(self.skipped)
        self._rows.update(found.prices_e8)
        self._clock_ms = found.clock_ms
        self.frames_by_kind = found.frames


class RawFrames:
    """A file of raw frames."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def survey(self, skipped: Counter[str]) -> Survey:
        """One pass over the whole file."""
        prices: dict[str, int] = {}
        frames: Counter[str] = Counter()
        clock_ms = 0
        for line in read_lines(self._path, skipped):
            frames[line.kind or "other"] += 1
            if line.market and line.market not in prices and (price := _price_of(line.body)) > 0:
                prices[line.market] = price
            clock_ms = clock_ms or line.exchange_ms
        if not frames:
            raise BadSettings(f"{self._path} holds no frame of the form `seconds: b'...'`")
        return Survey(prices, clock_ms, dict(frames))

    def lines(self) -> Iterator[Line]:
        """The frames in the order of the file."""
        return read_lines(self._path, Counter())


def read_lines(path: Path, skipped: Counter[str]) -> Iterator[Line]:
    """The frames of a file, plain or gzip; counts what is skipped by reason. Raises `BadSettings`."""
    recording = RawRecording(path)
    passed = 0
    for frame in recording:
        skipped["no frame"] += recording.skipped - passed
        passed = recording.skipped
        line = _line(frame, f"{path.name}:{recording.frames + recording.skipped}")
        if line.body is not None and not line.kind:
            skipped["no market data"] += 1  # {"status":"UP"} and error objects
            continue
        yield line
    skipped["no frame"] += recording.skipped - passed


def _line(frame: RawFrame, source: str) -> Line:
    unknown = Line(frame.received_ns, frame.raw, "", "", 0, None, source)
    try:
        body = msgspec.json.decode(frame.raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return unknown
    if isinstance(body, list) and body and isinstance(body[0], dict):
        body = body[0]
    if not isinstance(body, dict):
        return unknown
    kind = body.get("type", body.get("ty"))
    market = body.get("code", body.get("cd"))
    at_ms = body.get("timestamp", body.get("tms"))
    if not isinstance(kind, str) or not isinstance(market, str):
        return unknown._replace(body=body)
    return Line(frame.received_ns, frame.raw, kind, market, at_ms if isinstance(at_ms, int) else 0, body, source)


def _price_of(body: Any) -> int:
    if not isinstance(body, dict):
        return 0
    price = body.get("trade_price", body.get("tp"))
    units = body.get("orderbook_units", body.get("obu"))
    if price is None and isinstance(units, list) and units and isinstance(units[0], dict):
        price = units[0].get("ask_price", units[0].get("ap"))
    return e8_of(price) if isinstance(price, int | float) and price > 0 else 0
