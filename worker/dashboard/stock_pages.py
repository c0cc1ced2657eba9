"""Hides the buttons of Flower's own pages from visitors whom Flower's API would reject."""

from typing import Any

from flower.views import BaseHandler
from flower.views.tasks import TaskView
from flower.views.workers import WorkerView

from worker.dashboard.errors import ApiError


class _RightsAware(BaseHandler):
    def render(self, template: str, **values: Any) -> None:
        """Render a page; it is read-only if its visitor may not change anything."""
        if "read_only" in values:
            values["read_only"] = values["read_only"] or not self._may_change()
        super().render(template, **values)

    def _may_change(self) -> bool:
        if self.unauthenticated_api and not self.application.auth_config.allows_people:
            return True
        try:
            return bool(self.application.visitor(self.request).may_change)
        except ApiError:  # nobody can log in, so Flower's API refuses everyone
            return False


class TaskPage(_RightsAware, TaskView):
    """`/task/ID`, which can revoke or terminate the job."""


class WorkerPage(_RightsAware, WorkerView):
    """`/worker/NAME`, which can shut the worker down, and change its pool, queues and limits."""
