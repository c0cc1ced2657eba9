"""Failed jobs, for the tests that capture and record dead letters."""

from typing import Any

from celery.app.task import Context

SECRET = "canary-6402 of a prompt"


KEY = "gsk_" + "canary9f3a" * 5


def context(**changes: Any) -> Context:
    fields = {
        "id": "job-1",
        "args": [],
        "kwargs": {"prompt": SECRET},
        "retries": 1,
        "hostname": "w1@test",
    }
    fields |= {
        "delivery_info": {"routing_key": "ai.deferred", "priority": 0},
        "called_directly": False,
    }
    return Context(fields | changes)
