"""Adapts the app's tasks to the pool."""

from typing import Any

import celery
from celery.app.trace import build_tracer

from worker.aio import intake, mapping
from worker.aio.adopt import adopt, is_async
from worker.aio.task_limits import TaskLimits


class PoolTasks:
    """The tasks of an app, adapted to the pool.

    Args:
        app: The app.
        limits: Receives the `concurrency_limit` of each task.
        hostname: The worker's name.
    """

    def __init__(self, app: celery.Celery, limits: TaskLimits, hostname: str | None) -> None:
        self._app = app
        self._limits = limits
        self._hostname = hostname
        self._in_thread: dict[str, bool] = {}
        self._adopted: dict[str, Any] = {}
        """The adapted tasks by name; a task that replaces one of them is adapted in turn."""

    def adopt_all(self) -> None:
        """Adapt all tasks, including tasks that were registered again."""
        for task in self._app.tasks.values():
            self._adopt(task)

    def runs_in_thread(self, name: Any) -> bool:
        """Whether a task is a plain function. Adapts a task that was registered after the start."""
        task = self._app.tasks.get(name)
        if task is not None and self._adopted.get(task.name) is not task:
            self._adopt(task)
        return self._in_thread.get(str(name), True)

    def _adopt(self, task: Any) -> None:
        mapping.await_items_of(task)
        adopt(task)
        intake.prepare(task)
        self._in_thread[task.name] = not is_async(task)
        self._adopted[task.name] = task
        self._limits.set_from(task)
        task.__trace__ = build_tracer(
            task.name, task, self._app.loader, self._hostname, app=self._app
        )
