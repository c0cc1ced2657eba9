"""Which keys may serve a request, and what is left of a request without one of its models."""

from typing import Any

import pytest

from config.api_key import ApiKey, make_key
from worker.keypool import LeaseRequest, candidates
from worker.keypool.candidates import KeyDirectory

TAIL = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
A1, A2, B, UNKNOWN = (
    make_key("groq", secret=f"gsk_{name}{TAIL}", variable=f"KEY_{number}", account=account)
    for number, (name, account) in enumerate(
        (("a1a1a1", "a"), ("a2a2a2", "a"), ("bbbbbb", "b"), ("cccccc", None))
    )
)
ALL = [A1, A2, B, UNKNOWN]


def chosen(directory: KeyDirectory, **request: Any) -> list[ApiKey]:
    candidates = directory.candidates(LeaseRequest(**request))
    assert len(candidates.keys) == len(candidates.accounts)
    assert directory.candidates(LeaseRequest(tokens=9, **request)) is candidates, (
        "the result is kept"
    )
    return list(candidates.keys)


@pytest.mark.parametrize(
    ("request_", "keys"),
    [
        ({}, ALL),
        ({"exclude": frozenset({A1.id})}, [A2, B, UNKNOWN]),
        ({"exclude": frozenset(key.id for key in ALL)}, []),
        ({"exclude_accounts": frozenset({"a"})}, [B, UNKNOWN]),
        ({"exclude_accounts": frozenset({"a", UNKNOWN.id})}, [B]),  # its account is not known
        ({"account": "a"}, [A1, A2]),
        ({"account": A2.id}, [A2]),  # an earlier attempt did not know its account
        ({"account": UNKNOWN.id}, [UNKNOWN]),
        ({"account": "gone"}, []),
        ({"account": "a", "exclude": frozenset({A1.id})}, [A2]),
        ({"account": "a", "exclude_accounts": frozenset({"a"})}, []),
    ],
)
def test_keys_are_chosen_by_what_a_request_excludes(
    request_: dict[str, Any], keys: list[ApiKey]
) -> None:
    assert chosen(KeyDirectory(ALL), **request_) == keys


def test_what_is_learned_of_accounts_outlives_a_reload_and_changes_the_choice() -> None:
    directory = KeyDirectory(ALL)
    assert chosen(directory, account="b") == [B]
    directory.learn({UNKNOWN.id: "b"})
    assert chosen(directory, account="b") == [B, UNKNOWN]
    assert directory.candidates(LeaseRequest(account="b")).accounts == ("b", "b")
    directory.replace([A1, UNKNOWN])
    assert directory.accounts == {A1.id: "a", UNKNOWN.id: "b"}
    assert chosen(directory, account="b") == [UNKNOWN]


def test_choices_are_forgotten_if_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_CHOICES", 2)
    directory = KeyDirectory(ALL)
    for account in ("a", "b", "a", "c", "b"):
        chosen(directory, account=account)
        assert len(directory._choices) <= 2
    before = directory.candidates(LeaseRequest(account="c"))
    directory.candidates(LeaseRequest(account="b"))
    assert directory.candidates(LeaseRequest(account="c")) is before, "two results are kept"


BOTH = LeaseRequest(model="m", resource="r", fallbacks=(("n", "s"), ("o", "t")), tokens=5)


def test_a_request_knows_its_models_in_order_and_each_alone() -> None:
    assert BOTH.models == (("m", "r"), ("n", "s"), ("o", "t"))
    for number, (model, resource) in enumerate(BOTH.models):
        assert BOTH.taking(number) == LeaseRequest(model=model, resource=resource, tokens=5)
    alone = LeaseRequest(model="m", resource="r")
    assert alone.taking(0) is alone


@pytest.mark.parametrize(
    ("without", "models"),
    [
        ("m", (("n", "s"), ("o", "t"))),
        ("n", (("m", "r"), ("o", "t"))),
        ("o", (("m", "r"), ("n", "s"))),
        ("another", BOTH.models),
    ],
)
def test_a_model_that_is_turned_down_is_taken_out_if_others_are_left(
    without: str, models: tuple[tuple[str, str], ...]
) -> None:
    assert BOTH.without(without).models == models
    alone = LeaseRequest(model=without)
    assert alone.without(without) is alone


@pytest.mark.parametrize(("answer", "tokens"), [(3, 8), (5, 10), (7, 12)])
def test_tokens_reserved_for_the_answer_count_among_all_tokens(answer: int, tokens: int) -> None:
    reserved = LeaseRequest(tokens=10, input_tokens=5, output_tokens=5).reserving(answer)
    assert (reserved.tokens, reserved.input_tokens, reserved.output_tokens) == (tokens, 5, answer)
