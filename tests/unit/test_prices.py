"""The file with the prices, and the cost of calls by it."""

from pathlib import Path

import pytest

from config.errors import SettingsError
from config.prices import Prices, read_prices

FILE = """
[groq."openai/gpt-oss-120b"]
prompt = 0.15
output = 0.6
[groq."openai/gpt-oss-120b (flex)"]
prompt = 1
cached = 0
output = 2
[resend]
email = 0.0004
"""


@pytest.fixture
def prices(tmp_path: Path) -> Prices:
    path = tmp_path / "prices.toml"
    path.write_text(FILE)
    read = read_prices(path)
    assert read is not None
    return read


# Service, model, tokens of prompts, cached ones of them, tokens of answers, emails, the cost in
# USD.
@pytest.mark.parametrize(
    ("service", "model", "used", "cost_usd"),
    [
        ("groq", "openai/gpt-oss-120b", (2_000_000, 0, 1_000_000, 0), 0.9),
        # Without a price of its own, a cached token has the price of other tokens of a prompt.
        ("groq", "openai/gpt-oss-120b", (2_000_000, 1_000_000, 0, 0), 0.3),
        # A tier may have its own price; otherwise it has the model's.
        ("groq", "openai/gpt-oss-120b (flex)", (2_000_000, 1_000_000, 1_000_000, 0), 3.0),
        ("groq", "openai/gpt-oss-120b (auto)", (1_000_000, 0, 0, 0), 0.15),
        ("groq", "another", (1, 0, 1, 0), None),
        ("groq", "another", (0, 0, 0, 0), 0.0),  # refused: nothing was used
        ("resend", "", (0, 0, 0, 1_000), 0.4),
        ("groq", "", (0, 0, 0, 1), None),
    ],
)
def test_used_tokens_and_emails_have_their_price(
    prices: Prices, service: str, model: str, used: tuple[int, ...], cost_usd: float | None
) -> None:
    prompt, cached, output, emails = used
    calculated_usd = prices.cost_usd(
        service, model, prompt=prompt, cached=cached, output=output, emails=emails
    )
    assert calculated_usd == (None if cost_usd is None else pytest.approx(cost_usd))


def test_without_the_file_there_are_no_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_prices() is None


def test_a_file_with_a_byte_order_mark_is_read_and_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keywheel-prices.toml"
    path.write_text("[resend]\nemail = 0.5\n", encoding="utf-8-sig")
    prices = read_prices(path)
    assert prices is not None
    assert prices.emails == {"resend": 0.5}
    path.write_bytes("[groq.modèle]\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"keywheel-prices\.toml cannot be read as UTF-8 text"):
        read_prices(path)
    path.unlink()
    path.mkdir()  # Docker makes a folder in place of a missing file that it has to mount
    with pytest.raises(SettingsError, match=r"keywheel-prices\.toml is a folder"):
        read_prices(path)


# The text of the file, and the message about it.
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("groq", "cannot be read as TOML"),
        (
            "[openai.m]\nprompt = 1",
            "openai: is not a table of a service; name one of [groq], [resend]",
        ),
        ("groq = 3", "groq: is not a table of a service"),
        ("[groq.m]\nprompt = 1", '[groq."m"] must have prompt and output, and may have cached'),
        ("[groq.m]\nprompt = 1\noutput = 1\nemail = 1", '[groq."m"] must have prompt and output'),
        ("[groq.m]\nprompt = '1'\noutput = 1", '[groq."m"] prompt must be a number of USD'),
        ("[groq.m]\nprompt = -1\noutput = true", '[groq."m"] output must be a number of USD'),
        ("[resend]\nemail = nan", "[resend] email must be a number of USD, 0 or more"),
    ],
)
def test_the_error_of_a_wrong_file_says_what_to_change(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "keywheel-prices.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_prices(path)
    assert sentence in str(caught.value)
    assert path.name in str(caught.value)
