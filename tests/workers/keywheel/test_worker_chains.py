"""Chains, groups and chords of our tasks, sent by an application without our routes."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, Signature, chain, chord, group, states

from config.services import SERVICES
from tests.fleets import Stack
from tests.pages import ROOT, blocks
from tests.processes import EXIT_S, READY_S, environment, eventually, hang_up

WORKFLOWS = ROOT / "docs/workflows.md"
ON_THE_PAGE = "redis://127.0.0.1:6379/0"

MAIL = {"to": "ann@example.com", "subject": "News"}


@pytest.fixture
def newcomer(fresh: Stack) -> Iterator[Celery]:
    """An application with Celery's own settings: all its jobs go to one queue."""
    app = Celery("newcomer", broker=fresh.redis_url, backend=fresh.redis_url, set_as_current=False)
    app.conf.task_default_queue = "ai"
    yield app
    hang_up(app)
    app.close()


def complete(app: Celery, prompt: str) -> Signature[Any]:
    return app.signature("tasks.ai.complete", kwargs={"prompt": prompt})


def send(app: Celery, **kwargs: Any) -> Signature[Any]:
    return app.signature("tasks.email.send", kwargs=MAIL | kwargs)


def emails(stack: Stack) -> int:
    accepted: int = stack.sandbox.ledger()["judgement"]["emails_accepted"]
    return accepted


def test_a_completion_becomes_an_email_and_an_email_a_prompt(
    fresh: Stack, newcomer: Celery
) -> None:
    steps = (
        # The first step follows no other, so this is not a template.
        complete(newcomer, "Say {hello}"),
        send(newcomer, text="{text}", html="<p>{text}</p>"),
        complete(newcomer, "Confirm the email {id}"),
    )
    answer = chain(*steps).apply_async().get(timeout=20)
    assert answer["text"]
    assert emails(fresh) == 1


def test_a_chord_sends_one_email_with_all_answers(fresh: Stack, newcomer: Celery) -> None:
    header = [complete(newcomer, f"Say hello to {name}") for name in ("Ann", "Bob", "Cat")]
    body = send(newcomer, text="{text}\n\nThe first: {0.text}")
    assert chord(header)(body).get(timeout=20)["id"]
    assert emails(fresh) == 1


def test_a_group_behind_a_completion_gets_its_result_in_each_job(
    fresh: Stack, newcomer: Celery
) -> None:
    several = group(send(newcomer, text="{text}", to=f"{name}@example.com") for name in "abc")
    sent = (complete(newcomer, "Say hello") | several).apply_async()
    assert len({email["id"] for email in sent.get(timeout=20)}) == 3
    assert emails(fresh) == 3


@pytest.mark.parametrize(
    ("arguments", "options", "state"),
    [
        ({"model": "none"}, {}, states.FAILURE),
        ({}, {"expires": -1}, states.REVOKED),
        ({}, {"countdown": 60}, states.REVOKED),  # it is cancelled meanwhile
    ],
)
def test_the_rest_of_a_chain_ends_with_the_job_that_failed_or_was_revoked(
    fresh: Stack, arguments: dict[str, Any], options: dict[str, Any], state: str
) -> None:
    """Celery leaves members of a group, and all jobs behind a revoked job, as they are."""
    behind = [str(uuid.uuid4()) for _ in range(3)]

    def step(job: str) -> dict[str, Any]:
        return send(fresh.producer.sender, text="{text}").set(task_id=job)

    members = {"tasks": [step(behind[1]), step(behind[2])]}
    grouped = Signature("celery.group", kwargs=members, subtask_type="group")
    sent = fresh.producer.sender.send_task(
        "tasks.ai.complete",
        kwargs={"prompt": "Say hello"} | arguments,
        queue="ai",
        chain=[grouped, step(behind[0])],  # the last job comes first
        **options,
    )
    if "countdown" in options:
        fresh.producer.app.control.revoke(sent.id)
    ends = fresh.producer.await_all([sent.id, *behind], within_s=20)
    assert {end["status"] for end in ends.values()} == {state}
    assert [ends[job]["result"] for job in behind] == [ends[sent.id]["result"]] * 3
    assert emails(fresh) == 0


def test_a_job_in_the_queue_of_another_task_is_moved(fresh: Stack, newcomer: Celery) -> None:
    sent = newcomer.send_task("tasks.email.send", kwargs=MAIL | {"text": "x"}, queue="ai")
    assert sent.get(timeout=20)["attempts"] == 1
    fresh.worker.await_log(f"moved {sent.id} to its own queue, email")
    ask = newcomer.send_task("tasks.admin.key_status", queue="email", priority=9)
    assert set(ask.get(timeout=20)) == set(SERVICES)


def test_a_step_of_the_applications_own_waits_in_celerys_queue_for_its_worker(
    fresh: Stack, newcomer: Celery
) -> None:
    client = newcomer.backend.client
    own = newcomer.signature("myapp.note")
    first = complete(newcomer, "Say hello").set(headers={"tenant": "acme"})
    sent = (first | own).apply_async()
    eventually(lambda: client.llen("celery") == 1, what="the step in Celery's own queue")
    assert sent.state == "PENDING"
    # The next job has the same tenant.
    assert json.loads(client.lindex("celery", 0))["headers"]["tenant"] == "acme"
    client.delete("celery")


def test_the_examples_of_the_docs_run(
    fresh: Stack, newcomer: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    known: dict[str, Any] = {"app": newcomer}
    for example in blocks(WORKFLOWS, "python"):
        if "dedupe_key" in example:  # the first job still runs when the second is sent
            fresh.sandbox.control("fault", service="groq", kind="hang", hang_s=3, count=1)
        exec(example.replace(ON_THE_PAGE, fresh.redis_url), known)  # noqa: S102 - our own
    known["redis"].close()
    chained, fanned_out, same, text = capsys.readouterr().out.splitlines()
    assert chained != fanned_out
    assert emails(fresh) == 2
    assert same in {"True", "False"}  # a slow machine sends the second after the first has ended
    assert text


def test_one_beat_sends_each_job_once(fresh: Stack, tmp_path: Path) -> None:
    """The schedule of the docs, every second instead of each morning."""
    [text] = [block for block in blocks(WORKFLOWS, "py") if "beat_schedule" in block]
    text = text.replace(ON_THE_PAGE, fresh.redis_url).replace("crontab(hour=7, minute=0)", "1.0")
    text = text.replace('"dedupe_key": "report",', "")  # on a busy machine a job takes a second
    (tmp_path / "schedule.py").write_text(text)
    log = tmp_path / "beat.log"
    with log.open("wb") as sink, redis.Redis.from_url(fresh.redis_url) as client:
        beat = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "schedule", "beat", "-l", "INFO"],
            cwd=tmp_path,
            env=environment(PYTHONPATH=str(tmp_path)),
            stdout=sink,
            stderr=sink,
        )
        try:
            eventually(lambda: emails(fresh) >= 2, within_s=READY_S, what="two emails of beat")
        finally:
            beat.terminate()
            beat.wait(EXIT_S)
        sent = log.read_text().count("Sending due task report (tasks.email.send)")
        eventually(lambda: emails(fresh) == sent, what="one email for each time")
        assert client.llen("email") == 0


def test_a_wrong_template_fails_its_job_without_a_call(fresh: Stack, newcomer: Celery) -> None:
    sent = (complete(newcomer, "Say hello") | send(newcomer, text="{body}")).apply_async()
    error = fresh.producer.outcome(sent)
    assert str(error) == "text: placeholder 1 names a field that the previous result does not have"
    assert emails(fresh) == 0
