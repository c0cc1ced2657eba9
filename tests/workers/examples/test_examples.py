"""The web applications under examples/, as their visitors use them.

They run as real servers with a real worker and the sandbox.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.processes import ROOT, eventually

NAMES = ("fastapi", "django", "express", "nextjs")
NODE = ("express", "nextjs")
MAIL = {"to": "ann@example.com", "subject": "Your report", "text": "It is ready."}


def ended(client: httpx.Client, path: str) -> dict[str, Any]:
    """Poll a job until it has ended."""

    def look() -> Any:
        state = client.get(path).raise_for_status().json()
        return state if state["state"] in {"done", "failed"} else None

    return dict(eventually(look, within_s=40, what=f"the end of {path}"))


@contextmanager
def refusal(examples: Any) -> Iterator[None]:
    """Make Groq refuse the next request for good."""
    examples.sandbox.control("fault", service="groq", status=400, count=1)
    yield
    examples.sandbox.control("clear", service="groq")


@pytest.mark.parametrize("name", NAMES)
def test_a_completion_is_enqueued_and_its_result_polled(visit: Any, name: str) -> None:
    client = visit(name)
    answer = client.post("/completions", json={"prompt": "Say hello"})
    assert answer.status_code == 202
    job = ended(client, answer.json()["job"])
    assert job["state"] == "done"
    assert job["result"]["text"].startswith("Sandbox ")
    assert job["result"]["attempts"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_a_visitor_words_and_no_codes(visit: Any, name: str) -> None:
    page = visit(name).get("/").raise_for_status()
    assert page.headers["content-type"].startswith("text/html")
    assert "<h1>Ask</h1>" in page.text
    if name != "nextjs":  # there, a script contains these texts
        assert "Busy, please wait." in page.text
    assert "Waiting: " not in page.text


@pytest.mark.parametrize("name", NAMES)
def test_an_email_is_enqueued(visit: Any, name: str) -> None:
    client = visit(name)
    job = ended(client, client.post("/emails", json=MAIL).json()["job"])
    assert job["state"] == "done"
    assert job["result"]["id"]


@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_fails_says_why(examples: Any, visit: Any, name: str) -> None:
    client = visit(name)
    wrong = ended(client, client.post("/emails", json=MAIL | {"to": "ann"}).json()["job"])
    assert wrong["state"] == "failed"
    assert "is not an email address" in wrong["reason"]
    with refusal(examples):
        refused = ended(
            client, client.post("/completions", json={"prompt": "x", "stream": False}).json()["job"]
        )
    assert refused["state"] == "failed"
    assert "rejects the request" in refused["reason"]
    assert refused.get("error") in {"RequestRejected", None}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_job_is_not_found(visit: Any, name: str) -> None:
    client = visit(name)
    for path in (f"/jobs/{uuid.uuid4()}", "/jobs/no-id"):
        assert client.get(path).status_code in {404, 422}
    assert client.get(f"/jobs/{uuid.uuid4()}").status_code == 404


@pytest.mark.parametrize("name", NAMES)
def test_an_invalid_question_is_rejected(visit: Any, name: str) -> None:
    client = visit(name)
    for body in ({}, {"prompt": ""}, {"prompt": 7}, []):
        assert client.post("/completions", json=body).status_code == 422
    # Express rejects this itself, the others reject it like any other invalid body.
    assert client.post(
        "/completions", content="{", headers={"content-type": "application/json"}
    ).status_code in {
        400,
        422,
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_example_without_redis_says_so(visit: Any, name: str) -> None:
    client = visit(name, has_redis=False)
    answer = client.post("/completions", json={"prompt": "Say hello"})
    assert answer.status_code == 503
    assert answer.json() == {"detail": "the queue cannot be reached, try again soon"}
    assert answer.headers["retry-after"] == "5"
    if name in {"fastapi", "nextjs"}:  # the others find their jobs without Redis
        for path in (f"/jobs/{uuid.uuid4()}", f"/jobs/{uuid.uuid4()}/events"):
            assert client.get(path).status_code == 503


def test_django_keeps_a_visitors_jobs_from_others_and_refuses_forged_requests(visit: Any) -> None:
    ann, bob = visit("django"), visit("django")
    job = ann.post("/completions", json={"prompt": "Say hello"}).json()["job"]
    assert bob.get(job).status_code == 404
    assert ended(ann, job)["state"] == "done"
    del bob.headers["X-CSRFToken"]
    assert bob.post("/completions", json={"prompt": "x"}).status_code == 403


# -- streaming


def events(
    client: httpx.Client, path: str, *, last: str = "", most: int = 10_000
) -> list[dict[str, Any]]:
    """Follow server-sent events to the end of the answer, or until there are enough."""
    received: list[dict[str, Any]] = []
    with client.stream("GET", path, headers={"Last-Event-ID": last} if last else {}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, Any] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = json.loads(value) if name == "data" else value
            else:
                received += [fields] if "event" in fields else []
                fields = {}
            if len(received) >= most:
                break
    return received


def shown(received: list[dict[str, Any]]) -> str:
    text = ""
    for event in received:
        text = (
            "" if event["event"] in {"start", "restart"} else text + event["data"].get("text", "")
        )
    return text


def test_an_answer_is_streamed_and_a_reader_that_returns_resumes_where_it_stopped(
    visit: Any,
) -> None:
    client = visit("fastapi")
    enqueued = client.post("/completions", json={"prompt": "Say hello"}).json()
    first = events(client, enqueued["events"], most=3)
    rest = events(client, enqueued["events"], last=first[-1]["id"])
    assert [event["event"] for event in (first[0], rest[-1])] == ["start", "end"]
    assert rest[-1]["data"]["status"] == "done"
    assert rest[-1]["data"]["usage"]["total_tokens"] > 0
    whole = client.get(enqueued["job"], params={"wait_s": 20}).json()["result"]["text"]
    assert shown(first + rest) == whole
    assert len(first + rest) >= 3
    assert shown(events(client, enqueued["events"])) == whole


def test_a_stream_that_is_gone_is_rebuilt_from_the_result(examples: Any, visit: Any) -> None:
    client = visit("fastapi")
    enqueued = client.post("/completions", json={"prompt": "Say hello", "stream": False}).json()
    assert ended(client, enqueued["job"])["state"] == "done"
    received = events(client, enqueued["events"])
    assert [event["event"] for event in received] == ["restart", "delta", "end"]
    assert shown(received) == client.get(enqueued["job"]).json()["result"]["text"]


def test_a_stream_of_a_job_that_fails_ends_with_its_reason(examples: Any, visit: Any) -> None:
    client = visit("fastapi")
    with refusal(examples):
        enqueued = client.post("/completions", json={"prompt": "Say hello"}).json()
        [end] = events(client, enqueued["events"])
    assert end["event"] == "end"
    assert (end["data"]["status"], end["data"]["error"]) == ("failed", "RequestRejected")
    assert "rejects the request" in end["data"]["reason"]
    assert client.get(f"/jobs/{uuid.uuid4()}/events").status_code == 404


@pytest.mark.parametrize("name", NODE)
def test_an_example_with_the_node_client_streams_reports_a_failure_and_cancels(
    examples: Any, visit: Any, name: str
) -> None:
    client = visit(name)
    enqueued = client.post("/completions", json={"prompt": "Say hello"}).json()
    first = events(client, enqueued["events"], most=3)
    rest = events(client, enqueued["events"], last=first[-1]["id"])
    assert rest[-1]["event"] == "end"
    assert shown(first + rest) == ended(client, enqueued["job"])["result"]["text"]
    with refusal(examples):
        refused = client.post("/completions", json={"prompt": "x"}).json()
        failed = events(client, refused["events"])[-1]
    assert (failed["event"], failed["data"]["error"]) == ("failed", "RequestRejected")
    assert client.delete(enqueued["job"]).json() == {"cancelled": False}
    examples.sandbox.control("exhaust", service="groq", seconds=5)
    unwanted = client.post("/completions", json={"prompt": "x"}).json()
    assert client.delete(unwanted["job"]).json() == {"cancelled": True}
    gone = events(client, unwanted["events"])[-1]
    assert (gone["event"], gone["data"]["error"]) == ("failed", "TaskRevokedError")


def test_the_requirements_of_the_examples_are_pinned_to_tested_versions() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    for name in ("fastapi", "django"):
        pinned = (ROOT / "examples" / name / "requirements.txt").read_text().split()
        assert pinned
        for requirement in pinned:
            assert requirement.replace("[redis]", "") + " " in locked, requirement
    for name in NODE:
        package = json.loads((ROOT / "examples" / name / "package.json").read_text())
        assert package["dependencies"].pop("keywheel-client") == "file:../../clients/node"
        versions = package["dependencies"] | package.get("devDependencies", {})
        assert all(version[0].isdigit() for version in versions.values())
        # A lock file would contain addresses.
        assert not (ROOT / "examples" / name / "package-lock.json").exists()
