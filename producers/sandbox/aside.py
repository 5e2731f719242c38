"""Something that blocks, read in a thread of its own and handed to the loop batch by batch.

Called by the drivers of recorded and followed markets. At most a few batches wait, so a fast source cannot fill the
memory; the thread never touches the market itself.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

_WAITING = 4


class Aside(Generic[T]):
    """`read` gives the next batch or None at the end; `close` is called in the same thread when it is over."""

    def __init__(self, read: Callable[[], T | None], close: Callable[[], None] = lambda: None) -> None:
        self._read = read
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._batches: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(_WAITING)
        self._stop = threading.Event()

    async def batches(self) -> AsyncGenerator[T, None]:
        """All batches; raises what the reading raised."""
        threading.Thread(target=self._work, name="market", daemon=True).start()
        try:
            while (batch := await self._batches.get()) is not None:
                self._room.release()
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            self._stop.set()
            self._room.release()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                batch = self._read()
                self._hand_over(batch)
                if batch is None:
                    break
        except BaseException as error:  # noqa: BLE001 - it is raised in the loop
            self._hand_over(error)
        finally:
            self._close()

    def _hand_over(self, batch: T | BaseException | None) -> None:
        self._room.acquire()
        if not self._stop.is_set():
            with suppress(RuntimeError):  # the loop is closed: nobody wants it any more
                self._loop.call_soon_threadsafe(self._batches.put_nowait, batch)
