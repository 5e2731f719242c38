"""The Faust agent of the feature stage: events in, `Features` out, acknowledged when the rows are delivered."""

import asyncio
import logging
from typing import Any

from infra.errors import Retry
from infra.handler import Output
from infra.log import Log, Record, slots_of
from infra.watchdog import Watchdog
from streams.runner import FeatureStage, outputs_of
from streams.stage import INPUTS, StageOptions

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class FeatureAgent:
    """Holds the stage of one worker."""

    def __init__(self, app: Any, log: Log, options: StageOptions, *, group: str, prefix: str) -> None:
        self._app = app
        self._prefix = prefix
        self.stage = FeatureStage(log, group, options)
        self._log = log
        self._group = group
        self._pending: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None
        self.watchdog = Watchdog(self._behind)
        self.stage.beat = self.watchdog.beat

    async def run(self, stream: Any) -> None:
        """Fold every event of the assigned partitions; the order within a partition is the log's."""
        self._begin_to_watch()
        async for event in stream.noack().events():
            self.watchdog.progress()
            message = event.message
            if message.tp not in self._app.consumer.assignment():
                event.ack()  # fetched before a rebalance took the partition away
                continue
            outputs = await self._folded(message)
            if not outputs:
                event.ack()
                continue
            deliveries = [await self._send(output) for output in outputs]
            task = asyncio.ensure_future(self._settle(event, deliveries))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    def _begin_to_watch(self) -> None:
        """From the first start of the agent on: joining the group may take long, a blocked event loop may not."""
        if self._beating is None:
            self.watchdog.start()
            self._beating = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        while True:
            self.watchdog.beat()
            await asyncio.sleep(1.0)

    async def on_revoked(self, *args: Any, **_: Any) -> None:
        """Forget the state of partitions that are taken away."""
        self.stage.drop({tp.partition for tp in args[-1]})

    def _behind(self) -> str | None:
        """What could be read but is not committed (asked by the watchdog when nothing moves)."""
        slots = slots_of(self._log, INPUTS)
        committed = self._log.committed(self._group, slots)
        for slot, (first, end) in self._log.bounds(slots).items():
            tp_owned = any(tp.partition == slot.partition for tp in self._app.consumer.assignment())
            if tp_owned and max(first, committed.get(slot, first)) < end:
                return f"{slot.topic}-{slot.partition}: committed {committed.get(slot)}, end {end}"
        return None

    async def _folded(self, message: Any) -> list[Output]:
        """Fold, again where the log did not answer: an error here would leave the event unacknowledged for ever."""
        while message.tp in self._app.consumer.assignment():
            try:
                return self._fold(message)
            except Retry as problem:
                logger.warning("waiting: %s", problem)
                self.watchdog.beat()
                await asyncio.sleep(RETRY_S)
        return []

    def _fold(self, message: Any) -> list[Output]:
        topic = message.topic.removeprefix(self._prefix)
        key = (message.key or b"").decode()
        return outputs_of(self.stage, Record(topic, message.partition, message.offset, 0, key, message.value))

    async def _send(self, output: Output) -> Any:
        return await self._app.producer.send(
            self._prefix + output.topic, output.key.encode(), output.value, None, None, None
        )

    async def _settle(self, event: Any, deliveries: list[Any]) -> None:
        """Acknowledge the event when all its rows are; a failed delivery ends the worker, which loses nothing."""
        try:
            await asyncio.gather(*deliveries)
        except Exception as error:  # noqa: BLE001 outermost of a task: whatever it was, the rows are not safe
            logger.error("rows not delivered, ending this worker: %s", error)  # noqa: TRY400 the text says it
            await self._app.crash(error)
            return
        event.ack()
