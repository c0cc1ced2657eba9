"""Messages that killed workers, and entries that are not jobs: kept, and the queue keeps moving."""

import json
import uuid
from typing import Any

import pytest

from tests.fleets import Stack
from tests.processes import eventually
from tests.workers.deadletters.dead_letter_jobs import (
    SECRET,
    await_dead_letter,
    complete,
    dead_letters,
    publish,
    send,
)


# How many workers died with the message, how many of them ran it alone, and whether it runs.
@pytest.mark.parametrize(
    ("deaths", "alone", "runs"),
    [
        (2, None, True),
        (10**9, None, True),
        (3, 2, False),
        (9, 2, False),
        ("3", 2, True),
        (True, 2, True),
    ],
)
def test_a_job_whose_worker_died_too_often_is_not_run_again(
    fresh: Stack, deaths: Any, alone: int | None, runs: Any
) -> None:
    job = complete(fresh, headers={"deaths": deaths, "keywheel_alone": alone})
    outcome = fresh.producer.outcome(job)
    if runs:
        assert outcome["text"]
        assert dead_letters(fresh) == []
        return
    assert type(outcome).__name__ == "Poisoned"
    assert await_dead_letter(fresh, job.id)["kind"] == "poison"
    assert fresh.sandbox.ledger()["services"]["groq"]["calls"] == 0
    assert fresh.producer.ask("tasks.admin.replay", kind="poison")["replayed"] == [job.id]
    eventually(
        lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the success"
    )


def test_a_message_that_killed_its_workers_before_its_task_began_is_kept_unchanged(
    fresh: Stack,
) -> None:
    job = complete(fresh, headers={"deaths": 4, "keywheel_alone": 3})
    assert type(fresh.producer.outcome(job)).__name__ == "Poisoned"
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["kind"], dead_letter["task"], dead_letter["replayable"]) == (
        "poison",
        "tasks.ai.complete",
        False,
    )
    assert dead_letter["reason"].startswith("Poisoned: 4 workers died")


@pytest.mark.parametrize("how", ["SystemExit", "MemoryError"])
def test_a_job_that_always_tries_to_end_its_worker_becomes_a_dead_letter(
    fresh: Stack, how: str
) -> None:
    job = send(fresh, "shop.orders.doom", kwargs={"how": how, "words": "canary-58"}, queue="ai")
    dead_letter = await_dead_letter(fresh, job.id)
    assert (
        dead_letter["service"],
        dead_letter["kind"],
        dead_letter["faults"],
        dead_letter["replayable"],
    ) == (
        "other",
        "poison",
        1,
        True,
    )
    assert dead_letter["reason"].startswith("WorkerLostError in ")
    assert "canary-58" not in json.dumps(dead_letter)
    assert type(fresh.producer.outcome(job)).__name__ == "WorkerLostError"


GOOD: list[Any] = [
    [],
    {"prompt": SECRET},
    {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
]
COMPLETE = {"task": "tasks.ai.complete", "id": ""}

# Entries of a queue: body, content type, headers, and a part of the dead letter's reason.
STRANGE: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "no JSON": ("{" + SECRET, "application/json", COMPLETE, "cannot be read"),
    "pickle": (b"\x80\x04]\x94.", "application/x-python-serialize", COMPLETE,
        "is not accepted: only JSON is"),
    "another type": (SECRET, "text/x-canary", COMPLETE, "is not accepted: only JSON is"),
    "an unknown task": (json.dumps(GOOD), "application/json", {**COMPLETE, "task": "tasks.ai.sing"},
        "do not know the task"),
    "a later protocol": (json.dumps({"v": 9, "args": 1}), "application/json", COMPLETE,
        "its body is not a list of"),
    "four parts": (
        json.dumps([*GOOD, {}]), "application/json", COMPLETE, "its body is not a list of"
    ),
    "arguments that are no list": (json.dumps(["x", {}, {}]), "application/json", COMPLETE,
        "must be a list"),
    "keywords that are no object": (json.dumps([[], [1], {}]), "application/json", COMPLETE,
        "must be a list"),
    "an id that is a list": (json.dumps(GOOD), "application/json", {**COMPLETE, "id": [1]},
        "short texts"),
    "no id": (json.dumps(GOOD), "application/json", {"task": "tasks.ai.complete"}, "short texts"),
    "a task's name that is a list": (json.dumps(GOOD), "application/json", {**COMPLETE, "task": []},
        "short texts"),
    "limits that are a text": (json.dumps(GOOD), "application/json", {**COMPLETE,
        "timelimit": "ab"}, "timelimit"),
    "an instant that is a text": (json.dumps(GOOD), "application/json", {**COMPLETE, "eta": "soon"},
        "header eta"),
    "an instant that is no date": (json.dumps(GOOD), "application/json", {**COMPLETE,
        "eta": "12-12"}, "protocol"),
    "an instant out of any calendar": (
        json.dumps(GOOD), "application/json", {**COMPLETE, "eta": "0001-01-01T00:00:00+14:00"},
            "its eta is outside",
    ),
    "no job at all": (json.dumps([SECRET]), "application/json", {}, "is not a Celery job"),
    "an object that is no job": (json.dumps({"hello": SECRET}), "application/json", {},
        "is not a Celery job"),
}  # fmt: skip


def test_the_queue_keeps_moving_after_every_message_that_is_not_a_job(fresh: Stack) -> None:
    jobs = {}
    for name, (body, content_type, headers, _) in STRANGE.items():
        if headers.get("id") == "":
            jobs[name] = str(uuid.uuid4())
            headers = headers | {"id": jobs[name]}  # noqa: PLW2901 - each run its own
        publish(fresh, body, content_type=content_type, **headers)
    assert fresh.producer.outcome(complete(fresh))["text"]
    poison = eventually(
        lambda: len(listed := dead_letters(fresh, kind="poison")) == len(STRANGE) and listed,
        what="a letter of each",
    )
    left = list(poison)  # dead letters of one millisecond are in no particular order
    for name, (*_, reason) in STRANGE.items():
        of_name = [
            dead_letter
            for dead_letter in left
            if reason in dead_letter["reason"]
            and (
                dead_letter["id"] == jobs[name]
                if name in jobs
                else dead_letter["id"] not in jobs.values()
            )
        ]
        assert of_name, (name, [dead_letter["reason"] for dead_letter in left])
        dead_letter = of_name[0]
        left.remove(dead_letter)
        assert dead_letter["replayable"] == (name == "an unknown task"), name
        if name in jobs:
            assert dead_letter["id"] == jobs[name]
            outcome = fresh.producer.app.AsyncResult(jobs[name])
            eventually(outcome.ready, what=f"the caller's answer to {name}")
            assert outcome.state == "FAILURE"
            assert reason in str(outcome.result) or "tasks.ai.sing" in str(outcome.result), name
    assert SECRET not in json.dumps(poison)
    assert SECRET not in fresh.worker.log
    assert fresh.worker.process.poll() is None
