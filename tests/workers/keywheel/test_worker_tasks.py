"""Jobs as their caller sees them: real workers, real Redis, and the sandbox as the provider."""

import re
from typing import Any

import pytest

from config.services import SERVICES
from tests.fleets import Stack
from tests.processes import SPACED, eventually

ANN = "ann@example.com"
FROM = "News <news@team1.example.net>"


def sentence_of(outcome: Any) -> str:
    """Return an error as the caller reads it: its type and its message."""
    assert isinstance(outcome, Exception), outcome
    return f"{type(outcome).__name__}: {outcome}"


def calls(stack: Stack, service: str) -> int:
    count: int = stack.sandbox.ledger()["services"][service]["calls"]
    return count


def test_a_prompt_is_completed(fresh: Stack) -> None:
    answer = fresh.producer.ask("tasks.ai.complete", prompt="Say hello")
    assert set(answer) == {
        "text", "reasoning", "model", "usage", "finish_reason", "tool_calls", "service_tier",
        "request_id",
        "key", "attempts", "waited_s",
    }  # fmt: skip
    assert answer["text"]
    assert answer["model"] == "openai/gpt-oss-120b"
    assert answer["reasoning"]
    assert (answer["service_tier"], answer["request_id"][:4]) == ("on_demand", "req_")
    assert answer["usage"]["total_tokens"] > 0
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 8}
    assert answer["finish_reason"] == "stop"
    assert answer["tool_calls"] == []
    assert answer["key"] in {f"{secret[:10]}..." for secret in fresh.sandbox.keys("groq")}
    assert answer["attempts"] == 1
    assert answer["waited_s"] >= 0


def test_a_conversation_is_completed_with_the_parameters_that_were_given(fresh: Stack) -> None:
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Count to a hundred"},
    ]
    answer = fresh.producer.ask(
        "tasks.ai.complete",
        messages=messages,
        model="openai/gpt-oss-20b",
        max_completion_tokens=3,
        temperature=0.2,
        seed=7,
        stop=["END"],
    )
    assert answer["model"] == "openai/gpt-oss-20b"
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_tools_is_made_of_our_own_results(
    fresh: Stack, *, stream: bool
) -> None:
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ]
    conversation: list[Any] = [{"role": "user", "content": "How is the weather?"}]

    def turn(**more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = fresh.producer.ask(
            "tasks.ai.complete", messages=conversation, tools=tools, stream=stream, **more
        )
        conversation.append(answer)
        return answer

    called = turn(tool_choice="required")
    assert (called["text"], called["finish_reason"]) == ("", "tool_calls")
    conversation.append(
        {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": ""}
    )
    assert turn()["text"]
    conversation.append({"role": "user", "content": "And tomorrow?"})
    cut = turn(max_completion_tokens=2)
    assert (cut["text"], cut["finish_reason"]) == ("", "length")
    assert cut["empty_because"].startswith(
        "reasoning used all 2 tokens that the answer may have: raise max_comp"
    )
    conversation.append({"role": "user", "content": "Go on"})
    assert turn()["text"]


def test_an_email_is_sent_from_the_address_of_the_keys_team(fresh: Stack) -> None:
    answer = fresh.producer.ask(
        "tasks.email.send", to=[ANN], subject="Hi", html="<p>Hello</p>", text="Hello"
    )
    assert set(answer) == {"id", "key", "attempts", "waited_s"}
    assert answer["attempts"] == 1
    judgement = fresh.sandbox.ledger()["judgement"]
    assert (judgement["emails_accepted"], judgement["recipients_accepted"]) == (1, 1)
    assert judgement["emails_without_idempotency_key"] == 0


def test_an_email_with_everything_is_sent(fresh: Stack) -> None:
    answer = fresh.producer.ask(
        "tasks.email.send",
        **{"from": FROM},
        to=[ANN, "Bob <bob@example.com>"],
        cc="carl@example.com",
        bcc=["dora@example.com"],
        reply_to="us@example.com",
        subject="Grüße",
        text="Hello",
        attachments=[{"filename": "a.txt", "content": "aGVsbG8="}],
        tags=[{"name": "kind", "value": "news"}],
        headers={"X-Entity-Ref-ID": "1"},
    )
    assert answer["id"]
    assert fresh.sandbox.ledger()["judgement"]["recipients_accepted"] == 4


def test_an_email_finds_the_team_that_owns_its_domain(fresh: Stack) -> None:
    answers = [
        fresh.producer.ask(
            "tasks.email.send",
            **{"from": "news@team2.example.net"},
            to=ANN,
            subject=f"Hi {n}",
            text="Hello",
        )
        for n in range(3)
    ]
    second = f"{fresh.sandbox.keys('resend')[1][:9]}..."
    assert {answer["key"] for answer in answers} == {second}


def test_the_same_idempotency_key_sends_one_email(fresh: Stack) -> None:
    mail = {
        "to": ANN,
        "subject": "Invoice",
        "text": "Hello",
        "from": FROM,
        "idempotency_key": "order-77",
    }
    first = fresh.producer.ask("tasks.email.send", **mail)
    second = fresh.producer.ask("tasks.email.send", **mail)
    assert first["id"] == second["id"]
    assert fresh.sandbox.ledger()["judgement"]["emails_accepted"] == 1


# The job, and the message that its caller reads. None of these jobs reaches a provider.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("tasks.ai.complete", {"prompt": "x", "promt": "y"}, "promt: is not a parameter of this task"),
    ("tasks.ai.complete", {"messages": []}, "messages: must not be empty"),
    ("tasks.ai.complete", {}, "give either messages, or prompt"),
    ("tasks.ai.complete", {"prompt": "x", "temperature": 9}, "temperature: "),
    ("tasks.email.send", {"to": [ANN] * 51, "subject": "s", "text": "t"}, "to: "),
    (
        "tasks.email.send",
        {"to": ANN, "from": "bob@", "subject": "s", "text": "t"},
        "from: is not an email address",
    ),
    (
        "tasks.email.send",
        {"to": ANN, "from": "bob", "subject": "s", "text": "t"},
        "from: is not an email address",
    ),
    ("tasks.email.send", {"subject": "s", "text": "t"}, "to: is required"),
    ("tasks.email.send", {"to": ANN, "subject": "s"}, "html or text is required"),
    ("tasks.admin.key_status", {"service": "groq"}, "service: is not a parameter of this task"),
    ("tasks.admin.reset_keys", {"service": "goq"}, "service: "),
    ("tasks.admin.reset_keys", {"key": "0123456789ab"}, "service: is required with key"),
    (
        "tasks.admin.reset_keys",
        {"service": "groq", "key": "0123456789ab"},
        "key: no groq key has this id",
    ),
    ("tasks.admin.reset_keys", {"service": "groq", "key": "my secret"}, "key: "),
]


@pytest.mark.parametrize(("name", "arguments", "sentence"), REFUSED)
def test_a_wrong_argument_fails_that_job_at_once(
    stack: Stack, name: str, arguments: dict[str, Any], sentence: str
) -> None:
    before = calls(stack, "groq"), calls(stack, "resend")
    outcome = sentence_of(stack.producer.ask(name, **arguments))
    assert outcome.startswith("InvalidArguments: ")
    assert sentence in outcome
    assert (calls(stack, "groq"), calls(stack, "resend")) == before


def test_arguments_by_position_are_refused(stack: Stack) -> None:
    sent = stack.producer.app.send_task("tasks.ai.complete", args=["hello"], queue="ai")
    assert "pass arguments by name" in sentence_of(stack.producer.outcome(sent))
    sent = stack.producer.app.send_task("tasks.admin.key_status", args=["groq"], queue="admin")
    assert "this task takes no arguments" in sentence_of(stack.producer.outcome(sent))


def test_a_model_that_does_not_exist_is_named(fresh: Stack) -> None:
    outcome = sentence_of(fresh.producer.ask("tasks.ai.complete", prompt="x", model="llama-9"))
    assert outcome.startswith("RequestRejected: ")
    assert "llama-9" in outcome
    assert calls(fresh, "groq") == 3, "each account is called once"


def test_an_unknown_domain_is_rejected(fresh: Stack) -> None:
    outcome = sentence_of(
        fresh.producer.ask(
            "tasks.email.send", **{"from": "a@nobody.example"}, to=ANN, subject="s", text="t"
        )
    )
    assert outcome.startswith("RequestRejected: ")
    assert "nobody.example" in outcome


def test_a_key_with_a_blank_is_named_and_the_good_ones_serve(fresh: Stack) -> None:
    assert "GROQ_API_KEY_4 contains a blank" in fresh.worker.log
    assert SPACED not in fresh.worker.log
    assert SPACED.split()[1] not in fresh.worker.log
    labels = {fresh.producer.ask("tasks.ai.complete", prompt=str(n))["key"] for n in range(6)}
    assert len(labels) == 3


def test_a_server_fault_costs_a_try_and_then_passes(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="groq", status=502, count=1)
    answer = fresh.producer.ask("tasks.ai.complete", prompt="x")
    assert answer["attempts"] == 2


def test_an_email_whose_answer_was_lost_is_sent_once(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="resend", kind="reset_after", count=1)
    answer = fresh.producer.ask("tasks.email.send", to=ANN, subject="Once", text="t")
    assert answer["attempts"] == 2
    judgement = fresh.sandbox.ledger()["judgement"]
    assert (judgement["emails_accepted"], judgement["emails_accepted_twice"]) == (1, 0)
    assert judgement["accepted_but_answer_lost"] == 1


def test_a_revoked_key_shows_in_the_status_until_a_reset(fresh: Stack) -> None:
    fresh.sandbox.control("revoke", key="groq:2")
    for n in range(4):
        assert fresh.producer.ask("tasks.ai.complete", prompt=str(n))["text"]
    status = fresh.producer.ask("tasks.admin.key_status")
    assert set(status) == set(SERVICES)
    states = [key["state"] for key in status["groq"]["keys"]]
    assert states == ["ready", "disabled", "ready"]
    dead = status["groq"]["keys"][1]
    assert (dead["reason"], dead["left_ms"], dead["label"]) == (
        "invalid_key",
        None,
        f"{second_label(fresh)}",
    )
    assert status["groq"]["summary"]["disabled"] == 1
    label = second_label(fresh)
    assert f"🚨 API key marked as failed: {label} (1/3 failed)" in fresh.worker.log
    fresh.sandbox.control("restore", key="groq:2")
    assert fresh.producer.ask("tasks.admin.reset_keys", service="resend")["reset"] == {"resend": 0}
    done = fresh.producer.ask(
        "tasks.admin.reset_keys", service="groq", key=dead["id"], by="flower alice"
    )
    back = {"scope": "key", "name": label, "key": dead["id"], "state": "disabled",
        "reason": "invalid_key",
            "disabled_by": ""}  # fmt: skip
    assert done == {
        "reset": {"groq": 1},
        "brought_back": {"groq": [back]},
        "left_disabled": {"groq": []},
    }
    audit = fresh.producer.app.backend.client.xrevrange("{kw:groq}:actions", count=1)
    assert re.fullmatch(r"task [0-9a-f-]{36} for flower alice", audit[0][1][b"by"].decode()), (
        "the caller cannot pose as another person"
    )
    assert "🔄 Groq failed keys reset" in fresh.worker.log
    status = fresh.producer.ask("tasks.admin.key_status")
    assert status["groq"]["summary"]["ready"] == 3
    assert fresh.producer.ask("tasks.admin.reset_keys")["reset"] == dict.fromkeys(SERVICES, 0)
    sent = fresh.producer.app.send_task("tasks.admin.reset_keys", args=["groq"], queue="admin")
    assert fresh.producer.outcome(sent)["reset"] == {"groq": 0}


def second_label(stack: Stack) -> str:
    return f"{stack.sandbox.keys('groq')[1][:10]}..."


def test_the_worker_is_alive_after_all_that(stack: Stack) -> None:
    assert stack.worker.process.poll() is None
    # Only an error that a user's own task raises has a traceback.
    lines = [line for line in stack.worker.log.splitlines() if "Traceback" in line]
    assert [line for line in lines if "custom_jobs" not in line] == []


def test_a_job_of_an_unknown_name_fails_and_its_prompt_is_not_logged(fresh: Stack) -> None:
    answer = fresh.producer.ask("tasks.ai.completee", prompt="canary-of-a-misspelt-job")
    assert "NotRegistered" in type(answer).__name__
    fresh.worker.await_log("Received unregistered task of type 'tasks.ai.completee'")
    assert "canary-of-a-misspelt-job" not in fresh.worker.log


def test_half_a_character_is_an_error_of_its_field_and_shows_nothing_of_the_rest(
    fresh: Stack,
) -> None:
    answer = fresh.producer.ask(
        "tasks.ai.complete", prompt="canary-beside-half-a-character" * 100, user="\ud800"
    )
    assert sentence_of(answer).startswith("InvalidArguments: user: ")
    assert "canary-beside-half-a-character" not in repr(answer)
    assert "canary-beside-half-a-character" not in fresh.worker.log


def test_a_deferred_job_that_reports_no_result_ends_without_the_state_retry(fresh: Stack) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=9)
    app = fresh.producer.app
    job = app.send_task(
        "tasks.ai.complete", kwargs={"prompt": "Hi"}, queue="ai", ignore_result=True
    )
    stored = app.AsyncResult(job.id)
    eventually(lambda: stored.state == "RETRY", what="the job waits as RETRY")
    eventually(lambda: stored.state == "SUCCESS", what="the end")
    assert stored.result is None
