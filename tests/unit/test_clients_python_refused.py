"""Calls that the Python client refuses before it sends them to Redis."""

import math
from datetime import datetime
from typing import Any

import pytest

from keywheel_client import AsyncKeywheel, Keywheel, Pipeline, checks
from keywheel_client.connection import Names
from keywheel_client.messages import message_of
from keywheel_client.stream_reader import StreamReader


@pytest.mark.parametrize("make", [Keywheel, AsyncKeywheel])
@pytest.mark.parametrize("start", ["rediss://a/0?", "sentinel://a/0?master_name=m&ssl=true&"])
@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_it_names_the_file_of_a_url_that_cannot_be_read(make: Any, start: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} cannot be read \(No such file.*: /none.pem"):
        make(f"{start}{option}=/none.pem")


@pytest.mark.parametrize("job_id", ["", " ", "a b", "é", "a\n", "x" * 201, 5, b"a", ["a"]])
def test_a_job_id_that_no_command_would_take_is_refused(job_id: Any) -> None:
    with pytest.raises(ValueError, match="job_id must have 1 to 200 visible"):
        Pipeline(track_started=True).complete("x", job_id=job_id)


@pytest.mark.parametrize(
    "tenant", ["", "a b", 'a"b', "a\\b", "é", "a\n", "x" * 201, 5, b"a", ["a"]]
)
def test_a_tenant_of_another_form_is_refused(tenant: Any) -> None:
    with pytest.raises(ValueError, match="tenant must have 1 to 200 printable"):
        Pipeline(track_started=True).complete("x", tenant=tenant)


@pytest.mark.parametrize("priority", [-1, 10, 1.0, True, "5", [5]])
def test_a_priority_that_is_not_a_whole_number_from_0_to_9_is_refused(priority: Any) -> None:
    with pytest.raises(ValueError, match="priority must be a whole number from 0 to 9"):
        Pipeline(track_started=True).complete("x", priority=priority)


@pytest.mark.parametrize("expires_s", [0, -5, math.nan, math.inf, -math.inf, 10**400, "5", True])
def test_an_expiry_that_is_not_a_positive_number_of_seconds_is_refused(expires_s: Any) -> None:
    with pytest.raises(ValueError, match="expires_s must be a number of seconds above 0, at most"):
        Pipeline(track_started=True).complete("x", expires_s=expires_s)


@pytest.mark.parametrize("timeout_s", [math.nan, "5", True, [5]])
def test_a_timeout_that_is_not_a_number_is_refused(timeout_s: Any) -> None:
    with pytest.raises(ValueError, match="timeout_s must be a number of seconds, or None"):
        checks.timeout_s_of(timeout_s)
    with pytest.raises(ValueError, match="timeout_s must be a number of seconds, or None"):
        StreamReader("job-1", "0", timeout_s)


def test_a_time_to_wait_may_be_over_already_or_never() -> None:
    assert checks.timeout_s_of(-1) == 0
    assert checks.timeout_s_of(math.inf) is checks.timeout_s_of(None) is None
    assert checks.deadline_of(None) == math.inf


@pytest.mark.parametrize("job", [None, "", 5, b"job-1"])
def test_a_value_that_is_not_a_jobs_id_names_no_record(job: Any) -> None:
    names = Names.of("kw")
    for name in (names.result, names.cancel, names.stream):
        with pytest.raises(TypeError, match="job must be a job's id"):
            name(job)


@pytest.mark.parametrize("after", ["x", "$", "5-", "-5", 5, None, "5-1\n"])
def test_a_value_that_is_not_the_id_of_an_event_is_refused(after: Any) -> None:
    with pytest.raises(ValueError, match="after must be the id of an event of the stream, or 0"):
        StreamReader("job-1", after, 5)


@pytest.mark.parametrize("make", [Keywheel, AsyncKeywheel])
@pytest.mark.parametrize("option", ["url", "results_url", "pool_url", "namespace"])
def test_an_address_of_a_wrong_kind_is_named(make: Any, option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a string, but is of type int"):
        make(**{option: 5})


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"temperature": float("nan")}, ValueError, "not JSON compliant"),
        ({"metadata": object()}, TypeError, "object cannot be written as JSON"),
        (
            {"metadata": datetime(2026, 12, 1, 9)},  # noqa: DTZ001 - it is what is refused
            ValueError,
            "2026-12-01 09:00:00 has no time zone: give one, such as",
        ),
    ],
)
def test_an_argument_that_json_cannot_hold_is_refused_when_the_message_is_made(
    given: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        message_of("tasks.ai.complete", given)
    with pytest.raises(ValueError, match="0 to 9"):
        message_of("tasks.ai.complete", {}, priority=10)
