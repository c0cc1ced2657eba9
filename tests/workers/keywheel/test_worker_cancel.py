"""A cancel is permanent.

It outlives a restart of all workers, works while no worker runs, and may come in any form.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.commands import run_lines
from tests.fleets import Fleet, fleets
from tests.processes import eventually, run_celery, workers
from worker.cancellations import KEPT_S

MAIL = {"to": "a@example.com", "subject": "Hello", "text": "x"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleets(lambda: tmp_path_factory.mktemp("fleet")) as start:
        yield start(count=1, groq_keys=1, resend_keys=1, resend_rps=100)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Any]:
    with redis.Redis.from_url(fleet.redis.url, decode_responses=True) as connection:
        yield connection


def cancel_by_hand(client: Any, task_id: str) -> None:
    """Cancel as docs/managing-jobs.md describes it for a program in another language."""
    client.set(f"kw:cancelled:{task_id}", "1", ex=KEPT_S)
    client.publish("kw:cancelled", task_id)


def deferred(fleet: Fleet, name: str, **kwargs: Any) -> Any:
    sent = fleet.producer.send(name, **kwargs)
    eventually(lambda: sent.state == "RETRY", what="a deferral")
    return sent


def stamped(fleet: Fleet, batch: str) -> Any:
    """An email with a stamp, by which Celery's users mark jobs that belong together."""
    sent = fleet.producer.sender.send_task(
        "tasks.email.send", kwargs=MAIL, queue="email", stamped_headers=["batch"], batch=batch
    )
    return fleet.producer.app.AsyncResult(sent.id)


def last(client: Any, task_id: str) -> dict[str, str]:
    [(_, record)] = client.xrevrange(f"kw:stream:{task_id}", count=1)
    return dict(record)


def latest_action(client: Any) -> str:
    [(_, entry)] = client.xrevrange("{kw:people}:audit", count=1)
    return f"{entry['event']} {entry['name']} by {entry['by']}"


def test_a_job_that_is_cancelled_during_its_call_ends_with_its_result(
    fleet: Fleet, client: Any
) -> None:
    fleet.sandbox.control("fault", service="groq", kind="hang", hang_s=4, count=2)
    by_celery, by_hand = (fleet.producer.send("tasks.ai.complete", prompt="x") for _ in range(2))
    eventually(lambda: fleet.workers[0].log.count("Using Groq key") == 2, what="two calls")
    fleet.producer.app.control.revoke(by_celery.id, reply=True, timeout=20, limit=1)
    cancel_by_hand(client, by_hand.id)
    reply = fleet.producer.ask("tasks.admin.cancel", id=[by_celery.id, by_hand.id], by="ann")
    assert re.fullmatch(r"cancelled 2 jobs by task \S+ for ann", latest_action(client))
    assert reply == {"jobs": dict.fromkeys([by_celery.id, by_hand.id], "running")}
    seen: set[str] = set()

    def ended() -> bool:
        states = [
            meta["status"] for meta in fleet.producer.states([by_celery.id, by_hand.id]).values()
        ]
        seen.update(states)
        return len(states) == 2

    eventually(ended, what="both results")
    assert seen == {"SUCCESS"}


def test_many_revoked_jobs_are_dropped_in_few_round_trips(fleet: Fleet, client: Any) -> None:
    app, job = fleet.producer.app, "tasks.ai.complete"
    app.control.cancel_consumer("ai", reply=True, timeout=20, limit=1)
    dropped = [fleet.producer.send(job, prompt="x") for _ in range(100)]
    known, broken = dropped[0], dropped[1]
    client.set(f"celery-task-meta-{known.id}", json.dumps({"status": "SUCCESS", "result": 1}))
    client.lpush(f"celery-task-meta-{broken.id}", "not a result")
    behind = fleet.producer.send(job, prompt="x")
    client.config_resetstat()
    app.control.revoke([result.id for result in dropped], reply=True, timeout=20, limit=1)
    app.control.add_consumer("ai", reply=True, timeout=20, limit=1)
    assert fleet.producer.outcome(behind)["text"]
    states = fleet.producer.states([result.id for result in dropped[2:]])
    assert {meta["status"] for meta in states.values()} == {"REVOKED"}
    assert len(states) == len(dropped) - 2
    assert known.state == "SUCCESS"
    log = fleet.workers[0].log
    assert all(
        log.count(f"Discarding revoked task: {job}[{result.id}]") == 1 for result in dropped[2:]
    )
    # Celery stores each end in a transaction of its own.
    assert client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"] < 20
    client.delete(f"celery-task-meta-{broken.id}")
    eventually(lambda: broken.state == "REVOKED", what="the end of the last one")
    eventually(lambda: not client.hlen("unacked"), what="the acknowledgements")


def test_a_cancelled_job_never_runs_not_even_after_a_restart(fleet: Fleet, client: Any) -> None:
    for service in ("groq", "resend"):
        fleet.sandbox.control("exhaust", service=service, seconds=600)
    revoked = [
        deferred(fleet, "tasks.email.send", **MAIL),
        deferred(fleet, "tasks.ai.complete", prompt="x", stream=True),
    ]
    by_hand = [
        deferred(fleet, "tasks.email.send", **MAIL),
        deferred(fleet, "tasks.ai.complete", prompt="x", stream=True),
    ]
    kept = deferred(fleet, "tasks.email.send", **MAIL)
    shown, shown_json = run_lines(
        fleet.folder, fleet.environ, f"job {kept.id} unknown", f"job --json {kept.id}"
    ).values()
    assert f"{kept.id}: RETRY, waits for a key (rate_limit); next try at 20" in shown.stdout, (
        shown.stderr
    )
    assert "unknown: PENDING" in shown.stdout
    status = json.loads(shown_json.stdout)[kept.id]
    assert status["waits"].keys() == {"kind", "code", "next_try", "expected_end"}
    assert MAIL["to"] not in str(status)
    by_stamp = stamped(fleet, "dropped")
    eventually(lambda: by_stamp.state == "RETRY", what="a deferral")
    dropped = {"batch": ["dropped", "another"]}
    fleet.producer.app.control.revoke_by_stamped_headers(dropped, reply=True, timeout=20, limit=1)
    fleet.producer.app.control.revoke([job.id for job in revoked], reply=True, timeout=20, limit=1)
    for job in by_hand:
        cancel_by_hand(client, job.id)
    for job in (*revoked, *by_hand, by_stamp):
        eventually(lambda job=job: job.state == "REVOKED", what="a stored cancel")
    for job in (revoked[1], by_hand[1]):
        eventually(
            lambda job=job: last(client, job.id)["type"] == "end", what="the end of its stream"
        )
        assert last(client, job.id)["error"] == "TaskRevokedError"
        assert client.xlen(f"kw:stream:{job.id}") == 2, (
            "the stream has one record of the wait and one of the end"
        )

    def waiting() -> list[str]:
        return [
            job for queue in ("ai", "email") for job in client.hkeys(f"{queue}.deferred.due.texts")
        ]

    eventually(
        lambda: waiting() == [kept.id] and not client.hlen("unacked"),
        what="the end of the cancelled jobs, long before their time",
    )

    running = fleet.producer.ask("tasks.admin.cancel", id=[by_hand[0].id, "unknown"])
    assert running == {"jobs": {by_hand[0].id: "cancelled", "unknown": "cancelled"}}
    fleet.workers[0].stop()
    by_command = fleet.producer.send("tasks.email.send", **MAIL)
    done = run_celery(fleet.folder, fleet.environ, "cancel", by_command.id)
    assert done.stdout == f"{by_command.id}: cancelled\n", done.stderr
    assert latest_action(client).startswith(f"cancelled {by_command.id} by cli ")
    assert fleet.producer.states([by_command.id])[by_command.id]["status"] == "REVOKED"
    unheard = [by_command]
    unheard += [
        fleet.producer.send("tasks.email.send", **MAIL),
        fleet.producer.send("tasks.ai.complete", prompt="x"),
    ]
    for job in unheard:
        cancel_by_hand(client, job.id)
    copies = client.lrange("email", 0, -1)
    unheard.append(stamped(fleet, "dropped"))
    others = stamped(fleet, "kept")
    fleet.sandbox.control("reset", ledger=False)
    with workers(fleet.folder / "again", fleet.environ) as [worker]:
        fleet.producer.ask("tasks.admin.reset_keys")
        assert fleet.producer.outcome(kept)["id"]
        assert fleet.producer.outcome(others)["id"]
        for job in (*revoked, *by_hand, *unheard):
            eventually(
                lambda job=job: job.state == "REVOKED", what=f"the cancel of {job.id}\n{worker.log}"
            )
        client.lpush("email", *copies)  # as after the death of a worker
        probe = fleet.producer.ask("tasks.email.send", **MAIL)
        assert probe["attempts"] == 1
        eventually(
            lambda: not client.llen("email") and not client.hlen("unacked"),
            what="the end of the copies",
        )
    # A new result object, because Celery's keep the end that they have read.
    states = fleet.producer.states([job.id for job in (*revoked, *by_hand, *unheard)])
    assert {meta["status"] for meta in states.values()} == {"REVOKED"}
    assert len(states) == len({*revoked, *by_hand, *unheard})
    assert len(fleet.sandbox.mail()["Hello"]) == 3
