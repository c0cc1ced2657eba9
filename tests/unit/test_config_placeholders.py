"""Placeholders: texts that stand in place of a key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.placeholders import looks_like_placeholder
from tests.unit.sample_keys import GROQ, RESEND


@pytest.mark.parametrize(
    "text",
    [
        *(
            "your-key-here",
            "YOUR_API_KEY",
            "xxx",
            "XXXXXXXX",
            "changeme",
            "change-me",
            "<your key>",
            "<key>",
            "gsk_",
        ),
        *(
            "gsk_your_groq_api_key",
            "gsk_yourkeyhere",
            "re_xxxxxxxx_xxxxxxxx",
            "re_your_api_key",
            "gsk_...",
            "re_123…",
        ),
        *(
            "gsk_abc123...",
            "${GROQ_API_KEY}",
            "{{ key }}",
            "replace_me",
            "todo",
            "none",
            "null",
            "-",
            "example-key",
        ),
        *("gsk_****************", "api_key", "insert key", "sk-xxxx", "put-your-key-here", "test"),
        # sentences from guides, and texts that programs write for "nothing"
        *(
            "the key goes here",
            "enter-my-token",
            "paste_a_secret",
            "add an apikey with it",
            "me: replaceme with keys",
            "keys-yours",
            "key-placeholder",
            "api-example",
            "this value",
            "key: insert",
            "change me",
            "key-changeme",
            "api: replace with it",
            "a sample",
            "demo",
            "dummy",
            "fake-key",
        ),
        *("(api key)", "-token-", "my secret!"),
        *("tbd", "fixme", "nil", "undefined", "empty", "false", "true", "groq-key", "re-resend"),
    ],
)
def test_texts_in_the_place_of_a_key_are_recognized(text: str) -> None:
    assert looks_like_placeholder(text)


@pytest.mark.parametrize(
    "text", [GROQ, RESEND, "gsk_sandbox1", "gsk_xxxD4eF5gH6", "re_demo_1_D4eF5gH6", "s3cret"]
)
def test_a_text_that_may_be_a_key_is_not_a_placeholder(text: str) -> None:
    assert not looks_like_placeholder(text)


@given(st.from_regex(r"gsk_[a-zA-Z0-9]{52}", fullmatch=True))
def test_hardly_any_random_key_looks_like_a_placeholder(secret: str) -> None:
    openings = ("your", "changeme", "replace", "placeholder", "example", "insert")
    rest = secret[4:].lower()
    assert not looks_like_placeholder(secret) or rest.startswith(openings) or len(set(rest)) == 1
