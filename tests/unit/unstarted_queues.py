"""A consumer of two queues that is not started, and the demand of their jobs for keys."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from celery.worker.request import Request


def held(queue: str) -> Any:
    request = Request.__new__(Request)
    request._delivery_info = {"routing_key": queue}
    return request


class Demand:
    """A demand with room for 100 jobs; no job waits unless a test scripts it."""

    waiting, bulk, rests_s = 0, 0, 0.0

    def __init__(self) -> None:
        self.notify: list[Callable[[], None]] = []

    def count(self, *, bulk: bool) -> int:
        return self.bulk if bulk else self.waiting

    def shortest(self, *, bulk: bool) -> int:
        return self.count(bulk=bulk)

    def resting_s(self) -> float:
        return self.rests_s

    def capacity(self) -> int:
        return 100

    def may_block_others(self) -> bool:
        return False

    def on_full(self, notify: Callable[[], None]) -> None:
        self.notify.append(notify)


def ignore(*_: Any) -> None:
    pass


class Channel:
    """The channel of a consumer; `for_urgent_only` has queues whose bulk jobs it does not take."""

    def __init__(self, *, by_priority: bool = True) -> None:
        self.for_urgent_only: set[str] = set()
        if by_priority:
            self.take_urgent_only = self._take_urgent_only

    def _take_urgent_only(self, queue: str, below: int | None) -> None:
        (self.for_urgent_only.discard if below is None else self.for_urgent_only.add)(queue)


def parent_of(*, limit: int | None = 100, by_priority: bool = True) -> Any:
    queues = ["ai", "ai.deferred"]
    return SimpleNamespace(
        task_consumer=SimpleNamespace(
            channel=Channel(by_priority=by_priority),
            queues=[SimpleNamespace(name=name) for name in queues],
            cancel_by_queue=ignore,
            add_queue=ignore,
            consume=lambda: None,
        ),
        pool=SimpleNamespace(limit=limit),
        app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=queues))),
    )


BOTH = {"ai", "ai.deferred"}
