"""Lanes: threads that run the desks' tasks when they are due. Exits and cancels have a lane of their own.

A slow answer to an entry therefore never delays an exit or a cancel, and a slow pocket holds only its share of a
lane's threads: what is due for it beyond that waits aside, behind nobody else. `executor` owns the lanes; a task that
fails for a passing reason is tried again, any other failure ends the process (the journal knows where everything is).
"""

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from threading import Condition, Thread

from consumers.execute.desk import Task
from infra.errors import Retry

logger = logging.getLogger(__name__)

RETRY_S = 0.5
Runner = Callable[[Task], list[Task]]
Entry = tuple[float, int, Task]


class Lane:
    """Tasks by due time. Of one kind and id there is one, at its earliest due time, and it runs once at a time."""

    def __init__(
        self,
        name: str,
        run: Runner,
        route: Callable[[Task], None],
        now_s: Callable[[], float],
        workers: int = 1,
        share: int | None = None,
    ) -> None:
        """`run` does a task, `route` takes the tasks that follow (it may put them into this lane or another); of the
        `workers` one pocket may hold `share` at a time.
        """
        self.failure: BaseException | None = None
        self._name = name
        self._run = run
        self._route = route
        self._now_s = now_s
        self._share = share or workers
        self._ready = Condition()
        self._due: dict[tuple[str, str], float] = {}
        self._heap: list[Entry] = []
        self._aside: defaultdict[str, list[Entry]] = defaultdict(list)
        self._count = 0
        self._running: set[tuple[str, str]] = set()
        self._busy: Counter[str] = Counter()
        self._is_open = True
        self._troubled: tuple[str, str] | None = None
        self._threads = [Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(workers)]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Plan a task; earlier wins over what was planned for the same kind and id."""
        key = (task.kind, task.id)
        due_s = self._now_s() + task.delay_s
        with self._ready:
            planned_s = self._due.get(key)
            if planned_s is not None and planned_s <= due_s:
                return
            self._due[key] = due_s
            self._count += 1
            heapq.heappush(self._heap, (due_s, self._count, task))
            self._ready.notify()

    def close(self, timeout_s: float) -> bool:
        """Start nothing more and wait for what runs; False where something still ran after `timeout_s`."""
        with self._ready:
            self._is_open = False
            self._ready.notify_all()
        end_s = self._now_s() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end_s - self._now_s()))
        return not any(thread.is_alive() for thread in self._threads)

    def _next(self) -> Task | None:
        with self._ready:
            while self._is_open:
                wait_s = self._wait_s()
                if wait_s != 0.0:
                    self._ready.wait(wait_s)
                elif (task := self._take(heapq.heappop(self._heap))) is not None:
                    return task
            return None

    def _take(self, entry: Entry) -> Task | None:
        """A due task, unless it is planned anew, is running, or its pocket has its share: then it waits aside."""
        due_s, _, task = entry
        key = (task.kind, task.id)
        if self._due.get(key) != due_s:
            return None
        if key in self._running or self._busy[task.pocket] >= self._share:
            self._aside[task.pocket].append(entry)
            return None
        del self._due[key]
        self._running.add(key)
        self._busy[task.pocket] += 1
        if self._heap:
            self._ready.notify()  # whoever takes a task leaves the next one to another
        return task

    def _leave(self, task: Task) -> None:
        with self._ready:
            self._running.discard((task.kind, task.id))
            self._busy[task.pocket] -= 1
            if not self._busy[task.pocket]:
                del self._busy[task.pocket]
            for entry in self._aside.pop(task.pocket, ()):
                heapq.heappush(self._heap, entry)
                self._ready.notify()

    def _wait_s(self) -> float | None:
        if not self._heap:
            return None
        return max(0.0, self._heap[0][0] - self._now_s())

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                for follower in self._do(task):
                    self._route(follower)
        except BaseException as error:  # noqa: BLE001 - the outermost loop of a thread: the process ends by it
            self.failure = error

    def _do(self, task: Task) -> list[Task]:
        key = (task.kind, task.id)
        try:
            followers = self._run(task)
        except Retry as error:
            if self._troubled is None:
                self._troubled = key
                logger.warning("%s: waiting, %s", self._name, error)
            return [task._replace(delay_s=getattr(error, "retry_s", RETRY_S))]
        finally:
            self._leave(task)
        if self._troubled == key:
            self._troubled = None
            logger.info("%s: going on", self._name)
        return followers
