"""What monitoring shows of a worker, and what it must not show."""

import json
import time
from typing import Any

from config.services import SERVICES
from tests.fleets import Stack
from tests.processes import eventually, run_celery

CANARY = "canary-prompt-81d4"


def test_the_stats_carry_the_pools_in_numbers(fresh: Stack) -> None:
    fresh.producer.ask("tasks.ai.complete", prompt="x")

    def summary() -> Any:
        stats = fresh.producer.app.control.inspect([fresh.worker.name], timeout=5).stats() or {}
        keys = stats.get(fresh.worker.name, {}).get("keys", {})
        # The stats are some seconds old: perhaps from before the reset, when a key rested.
        return keys if keys.get("groq", {}).get("calls") and keys["groq"]["ready"] == 3 else None

    keys = eventually(summary, what="the pools in the stats")
    assert set(keys) == set(SERVICES)
    assert (keys["groq"]["keys"], keys["groq"]["disabled"]) == (3, 0)
    assert keys["resend"]["keys"] == 2


def test_celery_inspect_shows_the_pools_in_its_stats(stack: Stack) -> None:
    result = run_celery(stack.folder, stack.environ, "inspect", "stats", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)[stack.worker.name]["keys"]["groq"]["keys"] == 3


def listen(
    stack: Stack, wanted: str, *, until: Any, within_s: float = 15.0
) -> list[dict[str, Any]]:
    """Read events from the bus until `until` is true for them."""
    events: list[dict[str, Any]] = []
    with stack.producer.app.connection_for_read() as connection:

        def hear(event: dict[str, Any]) -> None:
            events.append(event)
            receiver.should_stop = bool(until(events))

        receiver = stack.producer.app.events.Receiver(connection, handlers={wanted: hear})
        consumer = receiver.itercapture(limit=None, timeout=1, wakeup=True)
        deadline = time.monotonic() + within_s
        while not receiver.should_stop and time.monotonic() < deadline:
            try:
                for _ in consumer:
                    pass
            except TimeoutError:
                consumer = receiver.itercapture(limit=None, timeout=1, wakeup=False)
    return events


def test_the_state_of_the_keys_goes_out_as_an_event(stack: Stack) -> None:
    events = listen(stack, "keys-status", until=bool)
    assert events
    assert events[0]["hostname"] == stack.worker.name
    assert events[0]["services"]["groq"]["keys"] == 3
    assert not any(secret in json.dumps(events) for secret in stack.sandbox.keys("groq"))


def test_prompts_and_mail_bodies_do_not_show(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="groq", kind="hang_before", hang_s=3, count=1)
    fresh.sandbox.control("fault", service="resend", kind="hang_before", hang_s=3, count=1)
    heard: list[dict[str, Any]] = []
    sent = [
        fresh.producer.send("tasks.ai.complete", prompt=CANARY),
        fresh.producer.send("tasks.email.send", to="ann@example.com", subject=CANARY, text=CANARY),
        fresh.producer.send("tasks.ai.complete", prompt=CANARY, promt=CANARY),
    ]

    inspect = fresh.producer.app.control.inspect(
        [fresh.worker.name], timeout=5
    )  # asks one worker, so it returns as soon as that has replied

    def active() -> Any:
        jobs = inspect.active() or {}
        return jobs if len(jobs.get(fresh.worker.name, ())) == 2 else None

    jobs = eventually(active, what="two active jobs")
    assert {job["name"] for job in jobs[fresh.worker.name]} == {
        "tasks.ai.complete",
        "tasks.email.send",
    }
    assert CANARY not in json.dumps(jobs)
    reserved = inspect.reserved()
    assert CANARY not in json.dumps(reserved)
    by_id = inspect.query_task(sent[0].id)
    assert sent[0].id in json.dumps(by_id)
    assert CANARY not in json.dumps(by_id)
    ends = ("task-succeeded", "task-failed")
    heard = listen(
        fresh, "*", until=lambda events: sum(event["type"] in ends for event in events) >= 2
    )
    for result in sent:
        fresh.producer.outcome(result)
    types = {event["type"] for event in heard}
    assert "task-succeeded" in types, types
    assert CANARY not in json.dumps(heard)
    assert CANARY not in fresh.worker.log
