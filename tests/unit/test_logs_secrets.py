"""No secret is in a log line, wherever it stood, and every other text stays."""

import json
import logging

import pytest
from pydantic import SecretStr

from config.api_key import make_key
from tests.unit.log_output import Output, output
from tests.unit.sample_keys import GROQ, RESEND
from worker.logs import Redactor, setup_logging

__all__ = ["output"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_secret_is_hidden_wherever_it_stands(log_format: str, output: Output) -> None:
    key = make_key("groq", secret="odd-secret-without-a-shape", variable="GROQ_API_KEY")
    setup_logging(
        "INFO", log_format=log_format, secrets=[key, SecretStr('pa"ss\\wörd')], stream=output.stream
    )
    canaries = ("odd-secret-without-a-shape", 'pa"ss\\wörd', GROQ, RESEND)
    everything = " ".join(canaries)
    log = logging.getLogger("test")
    log.info("in the message " + everything)  # noqa: G003 - a careless call
    log.info("in an argument %s %r", everything, {"key": everything})
    log.info(
        "in extras",
        extra={"deep": {GROQ: [everything, (RESEND, {RESEND})]}, "error": ValueError(everything)},
    )
    try:
        raise RuntimeError(everything) from ValueError(everything)  # noqa: TRY301 - the traceback is the point
    except RuntimeError:
        log.exception("in an exception", stack_info=True)
    log.info("redis://user:p4ss@host:6379/0?password=p4ss and https://h/?token=p4ss")
    assert len(output.lines) == 5
    for canary in (*canaries, "p4ss", json.dumps(canaries[1])[1:-1], repr(canaries[1])[1:-1]):
        assert canary not in output.text
    for label in ("odd-se...", "gsk_abc123...", "re_def456...", "***"):
        assert label in output.text


def test_secrets_learned_later_are_hidden_and_earlier_ones_stay_so() -> None:
    redactor = Redactor()
    redactor.learn([])
    assert redactor.redact("first-secret") == "first-secret"
    redactor.learn(["first-secret"])
    redactor.learn([make_key("resend", secret="second-secret-of-a-key", variable="RESEND_API_KEY")])
    assert redactor.redact("first-secret second-secret-of-a-key") == "*** second..."


def test_a_secret_within_another_does_not_uncover_its_rest() -> None:
    redactor = Redactor()
    redactor.learn(["abcdef", "abcdefghij"])
    assert redactor.redact("abcdefghij abcdef") == "*** ***"


def test_only_the_password_of_a_url_is_hidden() -> None:
    redactor = Redactor()
    redactor.learn(["redis://host:1/0", SecretStr("redis://user:p%40ssword@host:1/0")])
    assert (
        redactor.redact("redis://host:1/0 user p%40ssword p@ssword")
        == "redis://host:1/0 user *** ***"
    )


def test_a_secret_too_short_to_hide_is_ignored() -> None:
    redactor = Redactor()
    redactor.learn(["a", "", "abcdef"])
    assert redactor.redact("a banana") == "a banana"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (GROQ, "gsk_abc123..."),
        (f"Bearer {GROQ}.", "Bearer gsk_abc123...."),
        (f"key='{RESEND}'", "key='re_def456...'"),
        # after an escaped line break, and joined to another word
        (f"\\n{RESEND}", "\\nre_def456..."),
        # labels, short beginnings of keys and names of Python stay
        ("gsk_abc123... re_def456...", "gsk_abc123... re_def456..."),
        ("core_settings_configuration_module", "core_settings_configuration_module"),
        ("gsk_short re_short", "gsk_short re_short"),
        (f"gsk_{'a' * 19}", f"gsk_{'a' * 19}"),
        ("redis://:p@h/0", "redis://:***@h/0"),
    ],
)
def test_an_unknown_text_in_the_form_of_a_key_is_hidden(text: str, shown: str) -> None:
    assert Redactor().redact(text) == shown


def test_the_answer_that_an_sdk_quotes_in_its_error_is_not_shown() -> None:
    body = {"error": {"message": "no", "code": "tool_use_failed", "failed_generation": "Dear\nAnn"}}
    for text in (f"Error code: 400 - {body}", repr(ValueError(f"Error code: 400 - {body}"))):
        shown = Redactor().redact(f"raised unexpected: {text}\nnext line")
        assert "Error code: 400 - tool_use_failed (the answer is not shown)\nnext line" in shown
        assert "Ann" not in shown
    assert Redactor().redact("Error code: 500 - Oops") == (
        "Error code: 500 - (the answer is not shown)"
    )


def test_a_text_without_secrets_comes_back_as_it_is() -> None:
    redactor = Redactor()
    redactor.learn([GROQ])
    text = "nothing here"
    assert redactor.redact(text) is text
