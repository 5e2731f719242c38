"""The Faust agent of the feature stage: events in, `Features` out, acknowledged when the rows are delivered."""

import asyncio
import logging
from typing import Any

from infra.log import Log, Record
from streams.messages import encode, key_of
from streams.runner import FeatureStage, dead_letter
from streams.stage import StageOptions

logger = logging.getLogger(__name__)


class FeatureAgent:
    """Holds the stage of one worker."""

    def __init__(self, app: Any, log: Log, options: StageOptions, *, group: str, prefix: str) -> None:
        self._app = app
        self._prefix = prefix
        self.stage = FeatureStage(log, group, options)
        self._pending: set[asyncio.Task[None]] = set()

    async def run(self, stream: Any) -> None:
        """Fold every event of the assigned partitions; the order within a partition is the log's."""
        async for event in stream.noack().events():
            message = event.message
            if message.tp not in self._app.consumer.assignment():
                event.ack()  # fetched before a rebalance took the partition away
                continue
            outputs = self._fold(message)
            if not outputs:
                event.ack()
                continue
            deliveries = [await self._send(*output) for output in outputs]
            task = asyncio.ensure_future(self._settle(event, deliveries))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def on_revoked(self, *args: Any, **_: Any) -> None:
        """Forget the state of partitions that are taken away."""
        self.stage.drop({tp.partition for tp in args[-1]})

    def _fold(self, message: Any) -> list[tuple[str, str, bytes]]:
        topic = message.topic.removeprefix(self._prefix)
        key = (message.key or b"").decode()
        rows = self.stage.apply(Record(topic, message.partition, message.offset, 0, key, message.value))
        outputs = [("features", key_of(row.exchange, row.market), encode(row)) for row in rows]
        for record, reason in self.stage.dead:
            logger.warning("dead letter: %s/%d/%d: %s", record.topic, record.partition, record.offset, reason)
            outputs.append(("dead-letters", "streams", dead_letter(record, reason, "streams")))
        self.stage.dead.clear()
        return outputs

    async def _send(self, topic: str, key: str, value: bytes) -> Any:
        return await self._app.producer.send(self._prefix + topic, key.encode(), value, None, None, None)

    async def _settle(self, event: Any, deliveries: list[Any]) -> None:
        """Acknowledge the event when all its rows are; a failed delivery ends the worker, which loses nothing."""
        try:
            await asyncio.gather(*deliveries)
        except Exception as error:  # noqa: BLE001 outermost of a task: whatever it was, the rows are not safe
            logger.error("rows not delivered, ending this worker: %s", error)  # noqa: TRY400 the text says it
            await self._app.crash(error)
            return
        event.ack()
