"""Variables that are not settings: which were meant as settings, and their replacements."""

import logging
import re

import pytest

from config.current import get_settings, notices
from config.names import GONE
from config.settings import settings_from, variables

pytestmark = pytest.mark.usefixtures("bare_environment")


def test_unknown_names_of_ours_are_warned_about_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KEYWHEEL_MAX_RETRY", "7")
    monkeypatch.setenv("KEYWHEEL_QQQQQQQQQQQQ", "7")
    monkeypatch.setenv("KEYWHEEL_POOL_URL_FILE", "")
    with caplog.at_level(logging.WARNING, logger="config.settings"):
        get_settings()
    assert caplog.messages == [
        "KEYWHEEL_MAX_RETRY is not a setting and has no effect; did you mean KEYWHEEL_MAX_RETRIES?",
        "KEYWHEEL_QQQQQQQQQQQQ is not a setting and has no effect.",
    ]


# A variable, and the setting that was meant.
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GROQ_KEY", "GROQ_API_KEY"),
        ("GROQ_MODELL", "GROQ_MODEL"),
        ("GROQ_BASEURL", "GROQ_BASE_URL"),
        ("RESEND_FORM", "RESEND_FROM"),
        ("RESEND_FORM_2", "RESEND_FROM_2"),
        ("RESEND_KEY", "RESEND_API_KEY"),
        ("ADMIN_TOKN", "ADMIN_TOKEN"),
        ("FLOWER_BASICAUTH", "FLOWER_BASIC_AUTH"),
        ("REDIS_ULR", "REDIS_URL"),
        ("CELERY_RESULTS_BACKEND", "CELERY_RESULT_BACKEND"),
        ("CELERY_BROKER", "CELERY_BROKER_URL"),
        # a misspelt prefix
        ("KEYWHEL_DEADLINE_S", "KEYWHEEL_DEADLINE_S"),
        ("KEY_WHEEL_DEADLINE_S", "KEYWHEEL_DEADLINE_S"),
        ("GROK_API_KEY", "GROQ_API_KEY"),
        ("RESND_FROM_2", "RESEND_FROM_2"),
        ("REDISURL", "REDIS_URL"),
        ("ADMINTOKEN", "ADMIN_TOKEN"),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_noticed(name: str, meant: str) -> None:
    assert notices({name: "x"}, settings_from({})) == (
        f"{name} is not a setting and has no effect; did you mean {meant}?",
    )


# Variables of other programs, about which Keywheel does not warn.
@pytest.mark.parametrize(
    "name",
    ["GROQ_LOG", "GROQ_ACCOUNT_3", "RESEND_FROM_10", "RESEND_WEBHOOK_SECRET", "GROQ_TEAM",
        "FLOWER_PERSISTENT",
     "FLOWER_AUTH", "REDIS_HOST", "REDIS_PASSWORD", "CELERY_TIMEZONE", "CELERY_BROKER_READ_URL",
     "CELERY_BROKER_WRITE_URL", "ADMIN_EMAIL", "RESEND_API_KEY_2"],
)  # fmt: skip
def test_a_name_of_others_is_left_alone(name: str) -> None:
    assert notices({name: "x"}, settings_from({})) == ()


def test_a_name_that_begins_otherwise_is_left_alone_if_ours_is_set_too() -> None:
    assert notices({"GROK_API_KEY": "x", "GROQ_API_KEY": "y"}, settings_from({})) == ()
    unrelated = (
        "PORT",
        "DATABASE_URL",
        "RABBIT_URL",
        "OPENAI_API_KEY",
        "XAI_API_KEY",
        "PATH",
        "R",
        "",
    )
    assert notices(dict.fromkeys(unrelated, "x"), settings_from({})) == ()


@pytest.mark.parametrize("name", GONE)
def test_a_setting_of_an_earlier_version_is_named_with_its_replacement(name: str) -> None:
    (sentence,) = notices({name: "1"}, settings_from({name: "1"}))
    assert sentence == f"{name} {GONE[name]}."
    named = set(re.findall(r"KEYWHEEL_[A-Z_]+", GONE[name])) - {"KEYWHEEL_"}
    assert named <= set(variables().values())
    assert name not in variables().values()


def test_a_variable_of_other_programs_with_celery_has_a_sentence_of_its_own() -> None:
    name = "CELERY_CONFIG_MODULE"
    sentence = f"{name} is read by other programs with Celery and has no effect here."
    assert notices({name: "theirs"}, settings_from({})) == (sentence,)
    assert notices({name: ""}, settings_from({})) == ()
