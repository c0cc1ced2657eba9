"""The queues that a worker consumes, by its keys or by -Q, and its log lines about them."""

from typing import Any
from unittest.mock import Mock, call

import pytest

from config.celery import DELAYED_QUEUES, FOREIGN, QUEUES
from config.services import SERVICES
from worker.hooks.queues import QueueChoice

BOTH = dict.fromkeys(SERVICES, 1)
NONE = dict.fromkeys(SERVICES, 0)
LEFT = "no groq key is configured: this worker does not consume the queue ai"


class Queues(dict[str, str]):
    """The app's queues, each with its name; notes the selected ones."""

    def __init__(self, *consumed: str) -> None:
        names = [*DELAYED_QUEUES.values(), *DELAYED_QUEUES]
        super().__init__({name: name for name in names})
        self.consume_from = dict.fromkeys(consumed or names)

    def select_add(self, queue: str) -> None:
        self.consume_from[queue] = None

    def deselect(self, names: list[str]) -> None:
        for name in names:
            del self.consume_from[name]


@pytest.mark.parametrize(
    ("requested", "custom", "suggestions"),
    [
        (None, False, []),
        ("ai,email.deferred", False, []),
        (["ai", FOREIGN], False, []),
        ("admni,emial", True, ["admin", "email"]),
        ("warehouse", True, []),  # of a user's own task
        ("warehouse", False, [f": there are {', '.join(QUEUES)}"]),
    ],
)
def test_the_warning_of_a_queue_that_no_task_uses_suggests_another(
    requested: Any, suggestions: list[str], *, custom: bool
) -> None:
    warnings = list(QueueChoice(requested).unknown(has_custom_tasks=custom))
    assert len(warnings) == len(suggestions)
    for line, part in zip(warnings, suggestions, strict=True):
        assert "a queue that no task of Keywheel uses" in line
        assert line.endswith(part if part.startswith(":") else f"; did you mean {part}?")


def test_the_queues_of_services_without_a_key_are_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queues, choice = Queues(), QueueChoice(None)
    choice.select(queues, BOTH | {"groq": 0})
    assert choice.by_keys
    assert set(Queues()) - set(queues.consume_from) == {"ai", "ai.deferred"}
    assert caplog.messages == [LEFT]


def test_a_queue_that_was_asked_for_is_consumed_with_its_deferred_jobs_whatever_keys_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queues, choice, consumer = Queues("ai"), QueueChoice("ai"), Mock()
    choice.select(queues, NONE)
    choice.follow(consumer, BOTH)
    assert list(queues.consume_from) == ["ai", "ai.deferred"]
    assert not choice.by_keys
    assert consumer.mock_calls == []
    assert caplog.messages == []


def test_the_queues_follow_the_keys(caplog: pytest.LogCaptureFixture) -> None:
    queues, choice, consumer = Queues(), QueueChoice(None), Mock()
    consumer.app.amqp.queues = queues
    choice.select(queues, BOTH)
    names = ("ai", "ai.deferred")
    for keys, calls in (
        (BOTH, []),
        (BOTH | {"groq": 0}, [call.cancel_task_queue(name) for name in names]),
        (BOTH | {"groq": 0}, []),
        (BOTH, [call.add_task_queue(name) for name in names]),
        (BOTH, []),
    ):
        consumer.reset_mock()
        choice.follow(consumer, keys)
        assert consumer.mock_calls == calls
    assert caplog.messages == [LEFT]
    queues.deselect(list(names))  # as Celery's own `cancel_task_queue` does
    choice.follow(consumer, BOTH | {"groq": 0})
    choice.follow(consumer, BOTH)
    assert set(names) <= set(queues.consume_from), "this holds after a reconnection as well"
