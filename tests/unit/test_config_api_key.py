"""One API key: its label, its id, and the names by which people select it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.api_key import keys_named, make_key, masked_key
from config.keys import discover_keys
from tests.unit.sample_keys import GROQ, RESEND


def test_a_key_shows_its_label_and_hides_its_secret() -> None:
    (key,) = discover_keys("groq", {"GROQ_API_KEY": f" {GROQ}\n"}).keys
    assert key.secret.get_secret_value() == GROQ
    assert key.label == "gsk_abc123..."
    assert len(key.id) == 12
    assert int(key.id, 16)
    assert (key.service, key.variable, key.account, key.sender) == (
        "groq",
        "GROQ_API_KEY",
        None,
        None,
    )
    assert GROQ not in repr(key)
    assert key == make_key("groq", secret=GROQ, variable="GROQ_API_KEY")
    with pytest.raises(AttributeError):
        key.label = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("secret", "label"),
    [
        (GROQ, "gsk_abc123..."),
        (RESEND, "re_def456..."),
        # no prefix, or one that is too long for a prefix: the first six characters
        ("a" * 40, "aaaaaa..."),
        ("averylongprefix_" + "b" * 40, "averyl..."),
        # short: a third of it at most
        ("gsk_abc123def", "gsk_..."),
        ("abcdef", "ab..."),
        ("ab", "..."),
        ("", "..."),
    ],
)
def test_a_label_shows_the_prefix_and_six_but_never_more_than_a_third(
    secret: str, label: str
) -> None:
    assert masked_key(secret) == label


@pytest.mark.usefixtures("untraced")
@given(st.text())
def test_a_label_never_shows_more_than_a_third(secret: str) -> None:
    assert (len(masked_key(secret)) - 3) * 3 <= len(secret)


# A person's text, and the keys that it selects.
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("GROQ_API_KEY", [0]),
        ("GROQ_API_KEY_2", [1]),
        ("{id}", [0]),
        ("{begin}", [0]),
        ("{label}", [0]),
        ("{label_cut}", [0]),
        ("{begin_of_all}", []),  # too short to select a key
        ("nosuchkey", []),
        ("", []),
    ],
)
def test_a_key_is_found_by_its_variable_its_label_or_the_beginning_of_its_id(
    text: str, meant: list[int]
) -> None:
    keys = discover_keys(
        "groq", {"GROQ_API_KEY": "gsk_" + "a1B2" * 13, "GROQ_API_KEY_2": "gsk_" + "c3D4" * 13}
    ).keys
    first = keys[0]
    names = {
        "id": first.id,
        "begin": first.id[:5].upper(),
        "begin_of_all": first.id[:2],
        "label": first.label,
    }
    written = text.format(**names, label_cut=first.label.rstrip(".") + "…")
    assert keys_named(written, keys) == [keys[number] for number in meant]
