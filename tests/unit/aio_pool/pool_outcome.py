"""One job of a pool in this process, and its outcome."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from celery.app.trace import trace_task_ret

from worker.aio.pool import TaskPool

Start = Callable[..., TaskPool]


class Outcome:
    """The four callbacks of a job, as the consumer's request has them."""

    def __init__(
        self,
        pool: TaskPool,
        task: Any,
        *args: Any,
        tag: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.accepted: Future[int] = Future()
        self.ended: Future[Any] = Future()
        self.timeouts: list[bool] = []
        self.threads: set[str] = set()
        request = {
            "id": self.id,
            "task": task.name,
            "delivery_info": {},
            "properties": {"delivery_tag": tag},
            **(headers or {}),
        }
        self.job = pool.apply_async(
            trace_task_ret,
            (task.name, self.id, request, (args, {}, {}), None, None),
            accept_callback=lambda pid, _: self._note(self.accepted, pid),
            callback=lambda answer: self._note(self.ended, answer),
            error_callback=lambda info: self._note(self.ended, info),
            timeout_callback=lambda soft, _: self.timeouts.append(soft),
            **options,
        )

    def _note(self, future: "Future[Any]", value: Any) -> None:
        self.threads.add(threading.current_thread().name)
        future.set_result(value)

    @property
    def answer(self) -> Any:
        return self.ended.result(10)


def settled(pool: TaskPool, *, running: int, queued: int) -> bool:
    deadline = time.monotonic() + 10
    while (pool.running, pool.queued) != (running, queued) and time.monotonic() < deadline:
        time.sleep(0.01)
    return (pool.running, pool.queued) == (running, queued)
