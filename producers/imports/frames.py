"""Raw Upbit frames of a recording as rows, read exactly as the feed reads them. Called by `producers.imports.files`.

What the feed would bury as a dead letter is unusable here for the same reason; lines that are no frames are counted.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from infra.errors import BadMessage
from producers.imports.formats import Format
from producers.imports.rows import Row
from producers.recordings import Recording
from producers.upbit.parse import ExchangeError, Parser, Unusable
from streams.messages import OrderBook, Trade

EXCHANGE = "upbit"


class Frames:
    """See `producers.imports.rows.File`."""

    format: Format = "upbit-raw"
    exchange = EXCHANGE

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, session: int, skipped: Counter[str]) -> Iterator[Row]:
        """The frames in the order of the file."""
        parser = Parser(EXCHANGE, EXCHANGE, session)
        recording = Recording(self.path)
        passed = 0
        for frame in recording:
            skipped["no frame"] += recording.skipped - passed
            passed = recording.skipped
            number = recording.frames + recording.skipped
            try:
                found = parser.parse(frame.raw, frame.received_ns)
            except BadMessage as error:
                yield Row(number, frame.received_ns, (), ((str(error), frame.raw),))
                continue
            items = tuple(one for one in found if isinstance(one, OrderBook | Trade))
            dead = tuple((one.reason, one.raw) for one in found if isinstance(one, Unusable))
            dead += tuple(
                (f"the exchange refused: {one.name} {one.text}", frame.raw)
                for one in found
                if isinstance(one, ExchangeError)
            )
            if not items and not dead:
                skipped["no market data"] += 1
            yield Row(number, frame.received_ns, items, dead)
        skipped["no frame"] += recording.skipped - passed
