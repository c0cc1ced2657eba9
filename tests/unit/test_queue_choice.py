"""The queues that -Q names: what is said of those that no task uses."""

import pytest

from worker.hooks.queues import QueueChoice


@pytest.mark.parametrize(
    ("named", "custom", "said"),
    [
        ("ai,email,admin,notify,jobs,ai.deferred,celery", False, []),
        (
            "emial",
            False,
            ["-Q names emial, a queue that no task of ours uses; did you mean email?"],
        ),
        ("emial", True, ["-Q names emial, a queue that no task of ours uses; did you mean email?"]),
        (
            "ai,nosuch",
            False,
            ["-Q names nosuch, a queue that no task of ours uses: there are ai, email, admin"],
        ),
        ("ai,reports", True, []),  # of a task of the user's own
        (None, False, []),
    ],
)
def test_a_queue_that_no_task_uses_is_named(
    named: str | None, custom: object, said: list[str]
) -> None:
    assert list(QueueChoice(named).unknown(has_custom_tasks=bool(custom))) == said
