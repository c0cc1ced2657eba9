"""Unknown parts of the providers' answers: which are reported, and what is kept of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from worker.providers.groq.unknowns import GroqWatch
from worker.providers.resend.unknowns import unknown_in
from worker.providers.response import Answer
from worker.providers.unknowns import Shapes, Unknown
from worker.verdicts import Fate, Verdict

SECRET = SecretStr("gsk_canary")
OK = Verdict(Fate.DONE, "ok")
KEPT = Verdict(Fate.NEXT_KEY, "x")


def shapes(*private: str) -> Shapes:
    return Shapes(SECRET, private)


# A name in an answer, and the part of it that is kept.
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("some_code", "some_code"),
        (" A.b:c/d-e f ", "A.b:c/d-e f"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "(no name)"),
        ("", "(no name)"),
        ("a\nb", "(no name)"),
        ("größe", "(no name)"),
        (7, "N"),
        ("v1.2", "vN"),
        ("a1b2c3d4e5f6", "…"),
        ("a1b2c3d4e5f", "aNbNcNdNeNf"),
        ("org_abc", "org_…"),
        ("about gsk_canary", "(no name)"),
        ("gsk_other", "(no name)"),
        ("Bearer x", "(no name)"),
        ("canary", "(a word of the request)"),
        ("canar", "canar"),
    ],
)
def test_a_name_is_kept_without_its_changing_or_private_parts(name: Any, shape: str) -> None:
    assert shapes("the canary text", "another").of_name(name) == shape


def test_a_name_that_holds_the_key_is_not_kept() -> None:
    assert Shapes(SecretStr("sesame"), ()).of_name("open sesame") == "(no name)"


def test_the_numbers_in_the_name_of_a_model_are_kept() -> None:
    assert shapes().of_name("llama-3.1-8b-instant", numbered=True) == "llama-3.1-8b-instant"
    assert shapes("llama-3.1-8b").of_name("llama-3.1", numbered=True) == "(a word of the request)"


@pytest.mark.parametrize(
    ("sentence", "shape"),
    [
        ('`a` and "b" at 12:30, 4,000 x', '`…` and "…" at N N x'),
        ("ask ann@x.example of org_1 with gsk_canary", "ask …@… of org_… with ***"),
        ("in req_01jabcdefghi now", "in … now"),
        ("the canary text is bad", "[…] is bad"),
        ("x" * 200 + "!", "x" * 200),
        ("x" * 199 + "!", "x" * 199 + "!"),
    ],
)
def test_a_sentence_is_kept_without_its_changing_or_private_parts(
    sentence: str, shape: str
) -> None:
    assert shapes("the canary text").of_sentence(sentence) == shape


def test_the_texts_of_a_request_are_looked_for_once() -> None:
    looked: list[str] = []

    def texts() -> Iterator[str]:
        looked.append("looked")
        yield "canary"

    made = Shapes(SECRET, texts())
    assert looked == []
    assert [made.of_name("canary") for _ in range(2)] == ["(a word of the request)"] * 2
    assert looked == ["looked"]


def groq(
    status: int, error: Any = None, *, message: Any = None, reason: Any = None, **headers: str
) -> list[str]:
    unknowns: list[Unknown] = []
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    GroqWatch(unknowns.append).look(
        Answer(status, named, None if error is None else {"error": error}),
        OK if status < 400 else KEPT,
        model="m",
        message=message or {},
        finish_reason=reason,
        shapes=shapes(),
    )
    assert {unknown.service for unknown in unknowns} <= {"groq"}
    return [f"{unknown.kind} {unknown.shape}" for unknown in unknowns]


def resend(status: int, body: Any = None, **headers: str) -> list[str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    unknowns = list(unknown_in(Answer(status, named, body), status=status, shapes=shapes()))
    assert {unknown.service for unknown in unknowns} <= {"resend"}
    return [f"{unknown.kind} {unknown.shape}" for unknown in unknowns]


EDGE = {500, 502, 503, 504, *range(520, 528)}
OF_GROQ = EDGE | {400, 401, 402, 403, 404, 408, 409, 413, 421, 422, 424, 425, 429, 498, 499}
OF_RESEND = EDGE | {400, 401, 403, 404, 405, 408, 409, 413, 421, 422, 425, 429, 451, 499}


def test_a_status_of_an_error_that_no_table_has_is_reported() -> None:
    errors = set(range(400, 600))
    assert {status for status in range(300, 600) if groq(status)} == errors - OF_GROQ
    assert {status for status in range(300, 600) if resend(status)} == errors - OF_RESEND
    assert groq(418) == resend(418) == ["status 418"]


@pytest.mark.parametrize(
    ("code", "noted"),
    [
        ("", []),
        ("invalid_api_key", []),
        ("model_permission_blocked_org", []),
        ("spend_x", []),
        ("new_code", ["error_code 400 new_code"]),
        ("xspend_x", ["error_code 400 xspend_x"]),
    ],
)
def test_a_code_of_groq_that_no_table_has_is_reported(code: str, noted: list[str]) -> None:
    assert groq(400, {"code": code}) == noted
    assert groq(200, {"code": code}) == []


def test_a_name_of_resend_that_no_table_has_is_reported() -> None:
    assert resend(422, {"name": "new_name"}) == ["error_code 422 new_name"]
    assert resend(422, {"name": "validation_error"}) == []
    assert resend(422, {"name": ""}) == []
    assert resend(200, {"name": "new_name", "id": "1"}) == ["message_field name"]


@pytest.mark.parametrize(
    ("status", "message", "noted"),
    [
        (429, "on thinking tokens per minute (THPM): Limit 10", ["limit_name THPM"]),
        (413, "on tokens per minute (TPM): Limit 10", []),
        (429, "on tokens per minute (TPM): none", ["refusal 429 on tokens per minute (TPM): none"]),
        (429, "No more. Limit 10", ["refusal 429 No more. Limit N"]),
        (429, "", []),
        (400, "No more", []),
    ],
)
def test_a_message_of_groq_without_a_known_limit_is_reported(
    status: int, message: str, noted: list[str]
) -> None:
    assert groq(status, {"message": message}) == noted


@pytest.mark.parametrize(
    ("message", "reason", "noted"),
    [
        ({"role": "assistant", "content": "x", "annotations": []}, "stop", []),
        ({"new": 1, "old": None}, "length", ["message_field new"]),
        ({}, "new_reason", ["finish_reason new_reason"]),
        ({}, 7, ["finish_reason N"]),
        ({}, None, []),
    ],
)
def test_unknown_fields_and_ends_of_a_completion_are_reported(
    message: Any, reason: Any, noted: list[str]
) -> None:
    assert groq(200, message=message, reason=reason) == noted
    assert groq(400, message=message, reason=reason) == [], "there is no completion to judge"


def test_unknown_headers_about_limits_are_reported() -> None:
    known = {
        f"x_ratelimit_{part}_{of}": "1"
        for part in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    }
    assert groq(200, **known, X_RateLimit_New="1", other="1") == ["header x-ratelimit-new"]
    assert groq(200, ratelimit="1", ratelimit_x="1") == ["header ratelimit-x"]
    known = dict.fromkeys(
        ("ratelimit_limit", "ratelimit_remaining", "ratelimit_reset", "ratelimit_policy",
         "x_resend_daily_quota", "x_resend_monthly_quota"), "1"
    )  # fmt: skip
    assert resend(200, **known, other="1") == []
    for name in ("ratelimit-new", "x-ratelimit-new", "x-resend-new"):
        assert resend(429, **{name: "1"}) == [f"header {name}"]


def test_unknown_fields_of_an_accepted_email_are_reported() -> None:
    assert resend(200, {"id": "1", "object": "x", "data": [], "errors": []}) == []
    assert resend(200, {"id": "1", "new": 1}) == ["message_field new"]
    assert resend(301, {"new": 1}) == []
    assert resend(200, ["new"]) == []


def judged(fate: Fate, code: str) -> Verdict:
    return Verdict(fate, code)


class _Watch:
    def __init__(self) -> None:
        self.unknowns: list[Unknown] = []
        self._watch = GroqWatch(self.unknowns.append)

    def see(self, *verdicts: Verdict, model: str = "m-1") -> list[str]:
        """Pass answers, and return the reports about them."""
        self.unknowns.clear()
        for verdict in verdicts:
            self._watch.look(
                Answer(200, {}), verdict, model=model, message={}, finish_reason=None,
                shapes=shapes(),
            )  # fmt: skip
        return [f"{unknown.kind} {unknown.shape}" for unknown in self.unknowns]


REJECTED = judged(Fate.FAIL, "rejected")


def test_a_model_whose_calls_all_fail_in_the_same_way_is_reported_from_the_twentieth_on() -> None:
    watch = _Watch()
    assert watch.see(*[REJECTED] * 19) == []
    assert watch.see(REJECTED) == ["model m-1: rejected"]
    assert watch.see(REJECTED) == ["model m-1: rejected"]
    assert watch.see(*[REJECTED] * 19, model="m-2") == []
    assert watch.see(judged(Fate.FAIL, "other"), REJECTED) == [], "the failures differ"
    assert watch.see(*[REJECTED] * 18) == []
    assert watch.see(OK, REJECTED) == []
    assert watch.see(REJECTED, model="m-2") == ["model m-2: rejected"]


@pytest.mark.parametrize(
    ("verdict", "noted"),
    [
        (judged(Fate.OTHER_ACCOUNT, "forbidden"), True),
        (judged(Fate.NEXT_KEY, "model_blocked"), True),
        (judged(Fate.NEXT_KEY, "invalid_key"), False),
        (judged(Fate.RETRY, "server_error"), False),
    ],
)
def test_a_failure_of_a_key_or_an_outage_is_not_counted_for_the_model(
    verdict: Verdict, *, noted: bool
) -> None:
    assert bool(_Watch().see(*[verdict] * 20)) is noted
    watch = _Watch()
    watch.see(*[REJECTED] * 19)
    assert bool(watch.see(verdict, REJECTED)) is not noted, (
        "such a failure neither counts nor interrupts the count"
    )


def test_only_the_last_models_that_failed_are_remembered() -> None:
    watch = _Watch()
    watch.see(*[REJECTED] * 19)
    for number in range(63):
        watch.see(REJECTED, model=f"other-{number}")
    assert watch.see(REJECTED) == ["model m-1: rejected"]
    for number in range(64):
        watch.see(REJECTED, model=f"another-{number}")
    assert watch.see(REJECTED) == []
