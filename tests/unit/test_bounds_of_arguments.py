"""Each bound of the tasks' arguments: the last accepted value, and the first refused one."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.arguments.admin import (
    CancelArguments,
    ListArguments,
    QuoteArguments,
    ReplayArguments,
    ResetArguments,
)
from worker.arguments.base import Arguments, check
from worker.arguments.completion import CompletionArguments
from worker.arguments.email import EmailArguments
from worker.errors import InvalidArguments

ASK: dict[str, Any] = {"prompt": "hello"}
MAIL: dict[str, Any] = {"to": "a@b.example", "subject": "Hi", "text": ""}
MONTH_S = 30 * 86_400

Given = tuple[type[Arguments], dict[str, Any]]
Make = Callable[[Any], Any]


def texts(count: int) -> list[str]:
    return ["x"] * count


def objects(count: int) -> list[Any]:
    return [{}] * count


def addresses(count: int) -> list[str]:
    return ["a@b.example"] * count


def as_it_is(value: Any) -> Any:
    return value


# A task's arguments, a field, a function that makes a value of some size, and each last accepted
# size beside the first refused one.
BOUNDS: list[tuple[Given, str, Make, list[tuple[Any, Any]]]] = [
    ((CompletionArguments, {}), "prompt", "x".__mul__, [(1, 0)]),
    ((CompletionArguments, {}), "messages", lambda n: [{"role": "user", "content": ""}] * n,
        [(1, 0)]),
    ((CompletionArguments, {}), "messages", lambda n: [{"role": "user", "content": objects(n)}],
        [(1, 0)]),
    ((CompletionArguments, ASK), "model", "x".__mul__, [(1, 0), (200, 201)]),
    ((CompletionArguments, ASK), "models", texts, [(1, 0), (20, 21)]),
    ((CompletionArguments, ASK), "temperature", as_it_is, [(0, -0.1), (2, 2.1)]),
    ((CompletionArguments, ASK), "top_p", as_it_is, [(0, -0.1), (1, 1.1)]),
    ((CompletionArguments, ASK), "max_tokens", as_it_is, [(1, 0), (2**31 - 1, 2**31)]),
    ((CompletionArguments, ASK), "max_completion_tokens", as_it_is, [(1, 0), (2**31 - 1, 2**31)]),
    ((CompletionArguments, ASK), "frequency_penalty", as_it_is, [(-2, -2.1), (2, 2.1)]),
    ((CompletionArguments, ASK), "presence_penalty", as_it_is, [(-2, -2.1), (2, 2.1)]),
    ((CompletionArguments, ASK), "seed", as_it_is, [(-(2**63), -(2**63) - 1), (2**63 - 1, 2**63)]),
    ((CompletionArguments, ASK), "stop", texts, [(4, 5)]),
    ((CompletionArguments, ASK), "n", as_it_is, [(1, 0), (1, 2)]),
    ((CompletionArguments, ASK), "tools", objects, [(128, 129)]),
    ((CompletionArguments, ASK), "functions", objects, [(128, 129)]),
    ((CompletionArguments, ASK), "documents", objects, [(1_000, 1_001)]),
    ((CompletionArguments, ASK), "include_domains", texts, [(1_000, 1_001)]),
    ((CompletionArguments, ASK), "exclude_domains", texts, [(1_000, 1_001)]),
    ((CompletionArguments, ASK), "logit_bias", lambda n: {"1": n}, [(-100, -101), (100, 101)]),
    ((CompletionArguments, ASK), "top_logprobs", as_it_is, [(0, -1), (20, 21)]),
    ((CompletionArguments, ASK), "dedupe_key", "x".__mul__, [(1, 0), (256, 257)]),
    ((CompletionArguments, ASK), "deadline_s", as_it_is, [(0.1, 0), (MONTH_S, MONTH_S + 1)]),
    ((EmailArguments, MAIL), "to", addresses, [(1, 0), (50, 51)]),
    ((EmailArguments, MAIL), "cc", addresses, [(50, 51)]),
    ((EmailArguments, MAIL), "subject", "x".__mul__, [(1, 0), (998, 999)]),
    ((EmailArguments, MAIL), "scheduled_at", "x".__mul__, [(1, 0), (100, 101)]),
    ((EmailArguments, MAIL), "topic_id", "x".__mul__, [(1, 0), (200, 201)]),
    ((EmailArguments, {"to": "a@b.example"}), "template", lambda n: {"id": "x" * n},
        [(1, 0), (200, 201)]),
    ((EmailArguments, MAIL), "tags", lambda n: [{"name": "x" * n}], [(1, 0), (256, 257)]),
    ((EmailArguments, MAIL), "attachments", lambda n: [{"content": "", "filename": "x" * n}],
        [(1, 0), (255, 256)]),
    ((EmailArguments, MAIL), "attachments", lambda n: [{"content": [n]}], [(0, -1), (255, 256)]),
    ((EmailArguments, MAIL), "headers", lambda n: {} if n == 0 else ["x"] * (n - 1),
        [(1, 2)]),
    ((ResetArguments, {}), "key", "a".__mul__, [(12, 11), (12, 13)]),
    ((ResetArguments, {}), "by", "x".__mul__, [(1, 0), (100, 101)]),
    ((CancelArguments, {}), "id", "x".__mul__, [(1, 0), (200, 201)]),
    ((CancelArguments, {}), "id", texts, [(1, 0), (1_000, 1_001)]),
    ((QuoteArguments, {"service": "groq"}), "model", "x".__mul__, [(1, 0), (200, 201)]),
    ((QuoteArguments, {"service": "groq"}), "jobs", as_it_is, [(1, 0), (10**7, 10**7 + 1)]),
    ((QuoteArguments, {"service": "groq"}), "tokens", as_it_is, [(1, 0), (10**7, 10**7 + 1)]),
    ((ListArguments, {}), "limit", as_it_is, [(1, 0), (1_000, 1_001)]),
    ((ListArguments, {}), "task", "x".__mul__, [(1, 0), (200, 201)]),
    ((ListArguments, {}), "before", as_it_is, [(1, 0), (10**15 - 1, 10**15)]),
    ((ReplayArguments, {}), "id", "x".__mul__, [(1, 0), (200, 201)]),
    ((ReplayArguments, {"id": "a"}), "limit", as_it_is, [(1, 0), (10_000, 10_001)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "field", "make", "taken", "refused"),
    [
        pytest.param(
            given, field, make, *sizes, id=f"{field} of {sizes[0]}, not of {sizes[1]}"
        )
        for given, field, make, all_sizes in BOUNDS
        for sizes in all_sizes
    ],
)  # fmt: skip
def test_the_last_value_within_a_bound_is_taken_and_the_next_one_refused(
    given: Given, *, field: str, make: Make, taken: Any, refused: Any
) -> None:
    model, beside = given
    check(model, (), beside | {field: make(taken)})
    with pytest.raises(InvalidArguments, match=field):
        check(model, (), beside | {field: make(refused)})


@pytest.mark.parametrize("field", ["html", "text"])
def test_a_text_may_be_empty(field: str) -> None:
    check(EmailArguments, (), {"to": "a@b.example", "subject": "Hi", field: ""})


def test_arguments_that_are_not_given_have_defaults() -> None:
    quoted = check(QuoteArguments, (), {"service": "groq"})
    listed = check(ListArguments, (), {})
    replayed = check(ReplayArguments, (), {"id": "a"})
    assert (quoted.jobs, listed.limit) == (1, 50)
    assert (replayed.limit, replayed.force) == (1_000, False)
    assert check(ResetArguments, (), {}).include_disabled is False
