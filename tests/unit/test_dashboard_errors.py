"""An endpoint returns errors as JSON, with the headers that belong to the status."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from worker.dashboard.errors import CODES, ApiError, RedisUnreachable
from worker.dashboard.handlers import AdminHandler, ChangeHandler
from worker.dashboard.request_body import check_fields

BASIC, BEARER = 'Basic realm="flower"', 'Bearer realm="flower"'


def error_of(
    status: int, error: Exception | None = None, *, kind: type[Any] = AdminHandler, mode: str = ""
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the JSON of an error, and the headers that are set with it."""
    handler = kind.__new__(kind)
    headers: list[tuple[str, str]] = []
    bodies: list[str] = []
    handler.request = SimpleNamespace(headers={"Sec-Fetch-Mode": mode} if mode else {})
    handler.application = SimpleNamespace(auth_config=SimpleNamespace(schemes=[BASIC, BEARER]))
    handler.set_header = handler.add_header = lambda name, value: headers.append((name, value))
    handler.finish = bodies.append
    handler.write_error(status, **({"exc_info": (type(error), error, None)} if error else {}))
    [body] = bodies
    return json.loads(body), headers


@pytest.mark.parametrize(
    ("status", "error", "code", "message"),
    [
        (404, ApiError(404, "unknown_key", "No key."), "unknown_key", "No key."),
        (503, RedisUnreachable("It is away"), "redis_unreachable", "It is away."),
        (500, ValueError("a detail"), "internal_error", "The request could not be served."),
        (500, None, "internal_error", "The request could not be served."),
        (418, None, "internal_error", "The request could not be served."),
        (404, None, "not_found", "The request could not be served."),
        (403, None, "forbidden", "The request carries no valid _xsrf token."),
        (405, None, "method_not_allowed", "This address does not support that method."),
    ],
)
def test_an_error_has_a_code_for_programs_and_a_sentence_for_people(
    status: int, error: Exception | None, code: str, message: str
) -> None:
    body, headers = error_of(status, error)
    assert body == {"error": code, "message": message}
    assert headers == [("Allow", "GET")] * (status == 405)


def test_an_error_of_redis_has_its_reason_and_status_503() -> None:
    error = RedisUnreachable("It is away")
    assert (error.status_code, str(error)) == (503, "It is away")


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    for known, words in (
        (("service", "key"), "the fields are: service, key"),
        ((), "this address takes no fields"),
    ):
        with pytest.raises(ApiError) as refused:
            check_fields({"zebra": 1, "x" * 50: 2}, known)
        assert (refused.value.status_code, refused.value.code) == (400, "unknown_field")
        assert refused.value.message == f"Unknown field {'x' * 40!r}; {words}."
    check_fields({"key": 1}, ("service", "key"))


def test_a_wrong_method_is_answered_with_the_allowed_one() -> None:
    assert error_of(405, kind=AdminHandler)[1] == [("Allow", "GET")]
    assert error_of(405, kind=ChangeHandler)[1] == [("Allow", "POST")]


# The browser's request; a script must not make it ask for a password again and again.
@pytest.mark.parametrize(
    ("mode", "schemes"),
    [("", [BASIC, BEARER]), ("navigate", [BASIC, BEARER]), ("cors", [BEARER])],
)
def test_a_visitor_who_must_log_in_gets_the_schemes(mode: str, schemes: list[str]) -> None:
    body, headers = error_of(401, ApiError(401, "login_required", "Log in."), mode=mode)
    assert body["error"] == "login_required"
    assert headers == [("WWW-Authenticate", scheme) for scheme in schemes]


def test_an_error_of_tornados_own_has_a_name_for_programs() -> None:
    assert CODES == {
        400: "bad_request", 401: "login_required", 403: "forbidden", 404: "not_found",
        405: "method_not_allowed", 413: "too_large", 500: "internal_error",
    }  # fmt: skip
