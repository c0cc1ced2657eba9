"""The parts of a provider's answer that our errors repeat."""

import json

import pytest

from worker.providers.response import MAX_SENTENCE, Answer, safe_sentence

LONG = "".join(chr(ord("A") + n * n % 26) + str(n) for n in range(60))  # no part occurs twice


def test_a_sentence_is_one_bounded_line_without_secrets() -> None:
    message = "no\x00 \u202e gsk_abc, re_def! hunter2hunter2\n" + "y" * 1_000
    sentence = safe_sentence(message, secret="hunter2hunter2", private=["y" * 200, "no"])
    assert sentence.startswith("no gsk_***, re_*** *** […]")
    assert len(safe_sentence("z " * 1_000, secret="")) == MAX_SENTENCE


@pytest.mark.parametrize(
    ("message", "private", "shown"),
    [
        ("no abcdef", ["abcdef"], "no […]"),
        ("no abcde", ["abcde"], "no abcde"),  # a common word
        ("no abcdefgh", ["abcdef", "abcdefgh"], "no […]"),
        (f"no {LONG[:15]}!", [LONG], f"no {LONG[:15]}!"),
        (f"no {LONG[:16]}!", [LONG], "no […]!"),
        (f"no {LONG[:40]}", [LONG], "no […]"),
        (f"no {LONG[20:36]}{LONG[:16]}", [LONG], "no […][…]"),
        ("no " + "yz" * 200, [], "no " + "yz" * 148 + "…"),
        ("no " + "y" * 297, [], "no " + "y" * 297),
        ("no bearer xyz, re_1,gsk_2", [], "no Bearer *** re_***,gsk_***"),
    ],
)
def test_what_a_provider_quotes_of_a_private_text_is_left_out(
    message: str, private: list[str], shown: str
) -> None:
    assert safe_sentence(message, secret="", private=private) == shown


# Ways in which a provider quotes a long text: whole, cut off by it, cut off by us, from the middle.
@pytest.mark.parametrize(
    "quoting",
    [
        f"content: {LONG}: is too long",
        f"content: '{LONG[:40]}...' is not allowed",
        f"content: {LONG * 2}",
        f"cannot parse …{LONG[30:70]}…",
    ],
)
def test_no_piece_of_a_private_text_is_repeated(quoting: str) -> None:
    message = Answer.parse(400, {}, json.dumps({"message": quoting}).encode()).message
    sentence = safe_sentence(message, secret="", private=[LONG * 2])
    assert "[…]" in sentence
    assert not any(LONG[start : start + 16] in sentence for start in range(len(LONG) - 16))


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"message": "m", "code": "c"}}, "c", "m"),  # Groq
        ({"name": "n", "message": "m"}, "n", "m"),  # Resend
        ({"error": "m"}, "", "m"),
        ({"detail": "m"}, "", "m"),
        ({"error": {"code": 7, "message": None}}, "", ""),
        (["x"], "", ""),
        (None, "", ""),
    ],
)
def test_an_error_is_read_in_every_shape(body: object, code: str, message: str) -> None:
    answer = Answer(400, {}, body)
    assert (answer.code, answer.message) == (code, message)


def test_a_body_that_is_nested_too_deep_is_not_read_as_json() -> None:
    assert Answer.parse(200, {}, b"[" * 200_000).body is None
