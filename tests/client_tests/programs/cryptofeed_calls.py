"""cryptofeed: books and trades through its feed handler. It knows one address and has no setting for another."""

import asyncio
import logging
from typing import Any

from cryptofeed import FeedHandler
from cryptofeed.defines import L2_BOOK, TRADES
from cryptofeed.exchanges import Upbit
from report import acall, call

SYMBOL = "BTC-KRW"


async def heard(channel: str, count: int) -> list[Any]:
    """The first messages of a channel, as the library's own callbacks give them."""
    found: asyncio.Queue[Any] = asyncio.Queue()

    async def take(message: Any, _receipt: float) -> None:
        found.put_nowait(message)

    handler = FeedHandler(config={"log": {"disabled": True}})
    handler.add_feed(Upbit(symbols=[SYMBOL], channels=[channel], callbacks={channel: take}))
    handler.run(start_loop=False, install_signal_handlers=False)
    try:
        return [await asyncio.wait_for(found.get(), 15) for _ in range(count)]
    finally:
        for feed in handler.feeds:
            await feed.shutdown() if hasattr(feed, "shutdown") else None
            feed.stop()


def is_book(message: Any) -> bool:
    book = message.book
    return message.symbol == SYMBOL and book.bids.keys()[0] < book.asks.keys()[0]


async def main() -> None:
    await acall("L2_BOOK", lambda: heard(L2_BOOK, 3), lambda found: all(map(is_book, found)))
    await acall("TRADES", lambda: heard(TRADES, 2), lambda found: all(one.symbol == SYMBOL for one in found))


logging.getLogger("feedhandler").setLevel(logging.CRITICAL)
call("Upbit.symbols", Upbit.symbols, lambda codes: SYMBOL in codes)
asyncio.run(main())
