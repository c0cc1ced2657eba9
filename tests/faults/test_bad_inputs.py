"""Bad arguments, bad messages, and entries that are not messages.

The caller reads what is wrong, the queue keeps moving, and no log contains the content.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.bad_messages import CANARY, ENTRIES, MESSAGES, NOTHING, SERVED, Bad
from tests.fleets import WIDE_LIMITS, Fleet, fleets
from tests.processes import eventually
from worker.arguments.completion import CompletionArguments
from worker.arguments.email import EmailArguments

ANN = "ann@example.com"
MAIL: dict[str, Any] = {"to": ANN, "subject": "s", "text": CANARY}
ASK: dict[str, Any] = {"prompt": CANARY}
AI, EMAIL = "tasks.ai.complete", "tasks.email.send"
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

# The task, its arguments, and what its caller reads. Each row has one defect, which its comment
# names.
ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    (AI, {}, "InvalidArguments: give either messages, or prompt"),  # no prompt
    # Null counts as missing.
    (AI, {"prompt": None}, "InvalidArguments: give either messages, or prompt"),
    (AI, {"prompt": 7}, "InvalidArguments: prompt: "),  # a number
    (AI, {"prompt": [CANARY]}, "InvalidArguments: prompt: "),  # a list
    (AI, {"prompt": ""}, "InvalidArguments: prompt: must not be empty"),  # empty
    (AI, {"prompt": f"{CANARY}\ud800"}, "InvalidArguments: prompt: "),  # half a character
    (AI, ASK | {"messages": []}, "InvalidArguments: messages: must not be empty"),  # empty
    (AI, {"messages": CANARY}, "InvalidArguments: messages: "),  # a text
    (AI, {"messages": [CANARY]}, "InvalidArguments: messages.0: "),  # not an object in the list
    (
        AI,
        {"messages": [{"role": "god", "content": CANARY}]},
        "InvalidArguments: messages.0.role: ",
    ),  # unknown role
    (
        AI,
        {"messages": [{"role": "user"}]},
        "InvalidArguments: messages.0: content is required",
    ),  # empty content
    (AI, ASK | {"model": 3}, "InvalidArguments: model: "),  # not a text
    (AI, ASK | {"model": "a b"}, "InvalidArguments: model: "),  # not a valid name
    (AI, ASK | {"model": "x" * 201}, "InvalidArguments: model: "),  # too long
    (
        AI,
        ASK | {"model": "no-such-model"},
        "RequestRejected: model_not_found",
    ),  # a name that Groq does not know
    (AI, ASK | {"temperature": float("nan")}, "InvalidArguments: temperature: "),  # not a number
    (AI, ASK | {"temperature": float("inf")}, "InvalidArguments: temperature: "),  # infinite
    (AI, ASK | {"temperature": 2.1}, "InvalidArguments: temperature: "),  # out of range
    (AI, ASK | {"top_p": -0.1}, "InvalidArguments: top_p: "),  # out of range
    (AI, ASK | {"max_tokens": 0}, "InvalidArguments: max_tokens: "),  # no room for an answer
    # More than any model allows.
    (AI, ASK | {"max_tokens": 10**30}, "InvalidArguments: max_tokens: "),
    (
        AI,
        ASK | {"seed": 10**30},
        "InvalidArguments: seed: ",
    ),  # larger than a server's integers
    (AI, ASK | {"stop": ["a"] * 5}, "InvalidArguments: stop"),  # too many
    (
        AI,
        ASK | {"response_format": {"a": float("nan")}},
        "InvalidArguments: response_format: is not JSON",
    ),  # nested too deep
    (AI, ASK | {"tools": [CANARY]}, "InvalidArguments: tools.0: "),  # not an object in the list
    (
        AI,
        ASK | {"promt": CANARY},
        "InvalidArguments: promt: is not a parameter of this task",
    ),  # misspelt
    # An argument with a strange name.
    (AI, ASK | {f"{CANARY} as a name": 1}, "InvalidArguments: (a strange name): "),
    (EMAIL, {"subject": "s", "text": CANARY}, "InvalidArguments: to: is required"),  # no recipient
    # An empty list of recipients.
    (EMAIL, MAIL | {"to": []}, "InvalidArguments: to: must not be empty"),
    (EMAIL, MAIL | {"to": [ANN] * 51}, "InvalidArguments: to: "),  # one recipient too many
    (EMAIL, MAIL | {"to": {"email": CANARY}}, "InvalidArguments: to: "),  # an object
    # Not an address.
    (EMAIL, MAIL | {"to": CANARY}, "InvalidArguments: to.0: is not an email address"),
    (
        EMAIL,
        MAIL | {"to": f"{ANN}\r\nBcc: {CANARY}@example.com"},
        "InvalidArguments: to.0: ",
    ),  # an injected header
    (EMAIL, MAIL | {"cc": [ANN, 7]}, "InvalidArguments: cc.1: "),  # a number among the addresses
    (
        EMAIL,
        MAIL | {"from": f"Ann\r\nBcc: {CANARY} <a@example.com>"},
        "InvalidArguments: from: ",
    ),  # an injected header
    (
        EMAIL,
        MAIL | {"from": "news@nobody.example.org"},
        "RequestRejected: ",
    ),  # a domain that belongs to no team
    (
        EMAIL,
        MAIL | {"subject": f"s\r\nBcc: {CANARY}"},
        "InvalidArguments: subject: ",
    ),  # an injected header
    (EMAIL, MAIL | {"subject": f"s\x00{CANARY}"}, "InvalidArguments: subject: "),  # a zero byte
    (
        EMAIL,
        MAIL | {"subject": f"s\u2028{CANARY}"},
        "InvalidArguments: subject: ",
    ),  # another kind of line break
    (
        EMAIL,
        MAIL | {"subject": "s" * 999},
        "InvalidArguments: subject: ",
    ),  # longer than a line may be
    (EMAIL, MAIL | {"text": 7}, "InvalidArguments: text: "),  # a number
    (
        EMAIL,
        {"to": ANN, "subject": CANARY},
        "InvalidArguments: html or text is required",
    ),  # no body
    (EMAIL, MAIL | {"html": f"{CANARY}\udc00"}, "InvalidArguments: html: "),  # half a character
    (
        EMAIL,
        MAIL | {"attachments": [{"filename": "a"}]},
        "InvalidArguments: attachments.0: ",
    ),  # an attachment without content
    (
        EMAIL,
        MAIL | {"attachments": [{"content": f"{CANARY}!"}]},
        "InvalidArguments: attachments.0: ",
    ),  # not Base64
    (
        EMAIL,
        MAIL | {"attachments": [{"content": [256]}]},
        "InvalidArguments: attachments.0.content",
    ),  # not a byte
    (
        EMAIL,
        MAIL | {"attachments": [{"content": "YQ==", "filename": f"a\r\nX: {CANARY}"}]},
        "InvalidArguments: attachments.0.filename: ",
    ),  # an injected header
    (
        EMAIL,
        MAIL | {"headers": {"X-A": f"a\nBcc: {CANARY}"}},
        "InvalidArguments: headers.X-A: ",
    ),  # an injected header
    (EMAIL, MAIL | {"headers": {"X A": "b"}}, "InvalidArguments: headers"),  # not a header name
    (
        EMAIL,
        MAIL | {"tags": [{"name": "ä", "value": "b"}]},
        "InvalidArguments: tags.0.name: ",
    ),  # not ASCII
    (EMAIL, MAIL | {"scheduled_at": 1_700_000_000}, "InvalidArguments: scheduled_at: "),  # a number
    (EMAIL, MAIL | {"scheduled_at": ""}, "InvalidArguments: scheduled_at: "),  # empty
    (
        EMAIL,
        MAIL | {"idempotency_key": "k" * 257},
        "InvalidArguments: idempotency_key: ",
    ),  # longer than Resend accepts
    (
        EMAIL,
        MAIL | {"idempotency_key": f"{CANARY} \n"},
        "InvalidArguments: idempotency_key: ",
    ),  # not a header value
    (
        "tasks.admin.reset_keys",
        {"service": CANARY},
        "InvalidArguments: service: ",
    ),  # unknown service
    (
        "tasks.admin.key_status",
        {"service": "groq"},
        "InvalidArguments: service: is not a parameter",
    ),  # a task without arguments
]


@dataclass
class Sent:
    """Sends all bad inputs at once to one worker."""

    fleet: Fleet
    client: "redis.Redis"
    jobs: list[str]
    messages: list[str]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    with fleets(lambda: tmp_path_factory.mktemp("bad")) as start:
        fleet = start(count=1, **WIDE_LIMITS)
        with redis.Redis.from_url(fleet.redis.url) as client:
            for entry in ENTRIES:
                client.lpush("ai", entry)
            messages = [str(uuid.uuid4()) for _ in MESSAGES]
            for job, bad in zip(messages, MESSAGES, strict=True):
                client.lpush("ai", json.dumps(bad.message(job)))
            jobs = [fleet.producer.send(name, **arguments).id for name, arguments, _ in ARGUMENTS]
            answered = [
                job for job, bad in zip(messages, MESSAGES, strict=True) if bad.caller != NOTHING
            ]
            fleet.producer.await_all(jobs + answered, within_s=60)
            yield Sent(fleet, client, jobs, messages)


def reading(fleet: Fleet, job: str) -> str:
    """Return what a caller reads: the kind and sentence of the error, `SUCCESS`, or nothing."""
    meta = fleet.producer.states([job]).get(job)
    if meta is None or meta["status"] == "SUCCESS":
        return "" if meta is None else "SUCCESS"
    words = meta["result"]["exc_message"]
    sentence = " ".join(map(str, words)) if isinstance(words, list) else words
    return f"{meta['result']['exc_type']}: {sentence}"


@pytest.mark.parametrize(
    "number", range(len(ARGUMENTS)), ids=lambda number: ARGUMENTS[number][2].strip(": ")
)
def test_the_error_of_a_wrong_argument_names_it_and_never_shows_its_value(
    sent: Sent, number: int
) -> None:
    read = reading(sent.fleet, sent.jobs[number])
    assert read.startswith(ARGUMENTS[number][2])
    assert CANARY not in read


@pytest.mark.parametrize(
    ("number", "bad"), list(enumerate(MESSAGES)), ids=[bad.says for bad in MESSAGES]
)
def test_the_caller_of_a_bad_message_reads_what_is_wrong_with_it(
    sent: Sent, number: int, bad: Bad
) -> None:
    read = reading(sent.fleet, sent.messages[number])
    assert CANARY not in read
    if isinstance(bad.caller, tuple):
        kind, sentence = bad.caller
        assert read.startswith(f"{kind}: ")
        assert sentence in read
    else:
        assert read == {SERVED: "SUCCESS", NOTHING: ""}[bad.caller]


def test_after_all_bad_inputs_the_worker_serves_good_jobs_and_holds_no_message(
    sent: Sent,
) -> None:
    assert sent.fleet.workers[0].process.poll() is None
    assert sent.fleet.producer.ask(AI, prompt="hello")["text"]
    assert sent.fleet.producer.ask(EMAIL, **(MAIL | {"text": "hello"}))["id"]
    eventually(
        lambda: not sent.client.hlen("unacked"), what="an empty table of unacknowledged jobs"
    )
    assert not any(sent.client.llen(queue) for queue in ("ai", "email", "admin"))


def test_entries_that_are_not_messages_are_kept_for_a_person(sent: Sent) -> None:
    kept = sent.client.lrange("unacked.unreadable", 0, -1)
    assert set(ENTRIES) <= set(kept)


def test_no_log_line_shows_the_content_of_a_bad_input(sent: Sent) -> None:
    assert CANARY not in sent.fleet.logs


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from([*CompletionArguments.model_fields, *EmailArguments.model_fields, "from"])
TASKS = st.sampled_from([AI, EMAIL])
HEADERS = st.sampled_from(
    [
        "id",
        "task",
        "eta",
        "expires",
        "retries",
        "timelimit",
        "shadow",
        "group",
        "keywheel",
        "deaths",
    ]
)


@settings(FEW, max_examples=8)
@given(
    made=st.lists(
        st.tuples(TASKS, st.dictionaries(NAMES, json_values, max_size=5)), min_size=10, max_size=30
    )
)
def test_made_up_arguments_end_their_jobs_and_not_the_worker(
    sent: Sent, made: list[tuple[str, dict[str, Any]]]
) -> None:
    jobs = [job for name, arguments in made for job in sent.fleet.producer.many(name, [arguments])]
    ended = sent.fleet.producer.await_all(jobs, within_s=30)
    kinds = {meta["result"]["exc_type"] for meta in ended.values() if meta["status"] == "FAILURE"}
    assert kinds <= {"InvalidArguments", "RequestRejected"}


@FEW
@given(headers=st.dictionaries(HEADERS, json_values, max_size=4), body=st.none() | json_values)
def test_made_up_messages_do_not_stop_the_queue(
    sent: Sent, headers: dict[str, Any], body: Any
) -> None:
    bad = Bad("made up", NOTHING, headers=headers, body=body)
    sent.client.lpush("ai", json.dumps(bad.message(str(uuid.uuid4()))))
    assert sent.fleet.producer.ask("tasks.admin.key_status")
    eventually(lambda: not sent.client.llen("ai"), what="an empty queue")
    assert sent.fleet.workers[0].process.poll() is None
