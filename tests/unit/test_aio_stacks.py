"""Celery's stacks of the current task, which jobs on one thread share."""

from typing import Any

import pytest
from celery.exceptions import ImproperlyConfigured
from celery.utils.threads import _LocalStack

from worker.aio import stacks


def test_stacks_of_another_kind_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="USE_FAST_LOCALS"):
        stacks.share(object())


def test_a_stack_keeps_what_it_held_when_it_is_shared() -> None:
    stack: Any = _LocalStack()
    stack.push("before")
    stacks.share(stack)
    stacks.share(stack)
    assert stack.top == "before"
    job = object()
    context = stacks.context_of(job)
    assert context.run(lambda: stack.top) is None
    assert context.run(stack.push, "of the job") == ["of the job"]
    assert context.run(stack.push, "above") == ["of the job", "above"]
    assert (len(stack), context.run(len, stack), stack.stack) == (1, 2, ["before"])
    assert [context.run(stack.pop) for _ in range(3)] == ["above", "of the job", None]
    assert stack.pop() == "before"
    stack.push("left")
    stack.__release_local__()
    assert stack.top is None
