"""How an HTTP answer is read before it is judged."""

from typing import Any

import pytest

from worker.providers.response import Answer, is_count, texts_in


@pytest.mark.parametrize(
    ("content", "body", "is_page"),
    [
        (b'{"a": 1}', {"a": 1}, False),
        (b'{"a": NaN, "b": Infinity}', {"a": None, "b": None}, False),
        (b'"<html>"', "<html>", False),
        (b" \n<html>", None, True),
        (b"<", None, True),
        (b"no JSON <html>", None, False),
        (b"null", None, False),
        (b"", None, False),
        (b"\xff", None, False),
    ],
)
def test_an_answer_is_read_whatever_it_claims_to_be(
    content: bytes, body: Any, *, is_page: bool
) -> None:
    answer = Answer.parse(200, {"Content-Type": "text/html", "X-Own": "A"}, content)
    assert (answer.body, answer.is_page) == (body, is_page)
    assert answer.headers == {"content-type": "text/html", "x-own": "A"}
    assert "html" not in repr(answer).replace("text/html", ""), "the body may quote anything"


def test_a_success_is_any_2xx() -> None:
    assert [status for status in range(100, 600) if Answer(status, {}).ok] == [*range(200, 300)]
    assert Answer(200, {}).is_page is False


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0", 0),
        (" 60 ", 60),
        ("1000000000000", 10**12),
        ("1000000000001", None),
        ("0000000000009", 9),
        ("00000000000009", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("²", None),
        ("", None),
    ],
)
def test_a_header_is_a_whole_number_or_nothing(value: str, number: int | None) -> None:
    assert Answer(200, {"x": value}).header_int("x") == number
    assert Answer(200, {}).header_int("x") is None


@pytest.mark.parametrize(
    ("stated", "wait_ms", "backoff_ms"),
    [
        (None, None, None),
        ("soon", None, None),
        ("0", 0, 0),
        ("7", 7_000, 7_000),
        ("300", 300_000, 300_000),
        ("301", 301_000, 300_000),
    ],
)
def test_a_wait_after_a_failure_counts_for_at_most_five_minutes(
    stated: str | None, wait_ms: int | None, backoff_ms: int | None
) -> None:
    answer = Answer(503, {} if stated is None else {"retry-after": stated})
    assert answer.retry_after_ms(now_s=0.0) == wait_ms
    assert answer.backoff_ms(now_s=0.0) == backoff_ms


@pytest.mark.parametrize(
    ("value", "counts"),
    [(0, True), (10**12, True), (10**12 + 1, False), (-1, False), (True, False), (1.0, False)],
)
def test_a_count_is_whole_and_not_absurd(value: object, *, counts: bool) -> None:
    assert is_count(value) is counts


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"code": "", "name": "n"}, "n", ""),
        ({"code": "c", "name": "n", "message": "m", "detail": "d"}, "c", "m"),
        ({"error": {"message": "", "detail": "d"}}, "", ""),
        ({"error": {"error": "e", "detail": "d"}}, "", "e"),
        ({"error": "e", "detail": "d"}, "", "e"),
        ({"message": 7, "detail": "d"}, "", "d"),
        ({"message": "m" * 4_001}, "", "m" * 4_000),
    ],
)
def test_the_first_text_of_an_error_is_its_message(body: Any, code: str, message: str) -> None:
    answer = Answer(400, {}, body)
    assert (answer.code, answer.message) == (code, message)


def test_the_texts_of_a_value_are_those_at_any_depth_without_names() -> None:
    value = {"name": ["a", ("b", {"c": "d"}), 7, None, b"e"], "other": "f"}
    assert list(texts_in(value)) == ["a", "b", "d", "f"]
    assert list(texts_in(7)) == []
