"""Each kind of setting: the accepted and refused forms of a value, and its stored form."""

import base64

import pytest
from pydantic import SecretStr

from config.errors import SettingsError
from config.fields import webhook_secrets
from config.settings import Settings, settings_from
from config.urls import SecretUrl

SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()
LIMITS, WORDS, NAMES = "KEYWHEEL_GROQ_LIMITS", "GROQ_MODEL", "ADMIN_USERS"
MODULES, SPACE, LOGIN = "KEYWHEEL_TASKS", "KEYWHEEL_NAMESPACE", "FLOWER_BASIC_AUTH"
SIGNING, ADDRESS = "KEYWHEEL_NOTIFY_SECRET", "GROQ_BASE_URL"


def value_of(variable: str, text: str) -> object:
    settings = settings_from({variable: text})
    groq = settings.services["groq"]
    return {
        LIMITS: groq.limits,
        WORDS: groq.models,
        NAMES: settings.admin_users,
        MODULES: settings.task_modules,
        SPACE: settings.namespace,
        LOGIN: settings.flower_basic_auth and settings.flower_basic_auth.get_secret_value(),
        SIGNING: webhook_secrets(settings.notify_secret),
        ADDRESS: groq.base_url,
        "FLOWER_ADDRESS": settings.flower_address,
    }[variable]


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        # empty items of a list are ignored, and repeated ones count once
        (LIMITS, ",rpm=30,, tpm=6000,", (("rpm", 30), ("tpm", 6_000))),
        (LIMITS, "rpm=007", (("rpm", 7),)),
        (WORDS, "a,,b, a", ("a", "b")),
        (WORDS, "a", ("a",)),
        (NAMES, "ann, böb,ann", "ann,böb"),
        (NAMES, "Ann Lee", "Ann Lee"),
        (MODULES, "myapp.jobs, , other,myapp.jobs", ("myapp.jobs", "other")),
        (MODULES, "_a.b1", ("_a.b1",)),
        (SPACE, "A-z_0.9", "A-z_0.9"),
        (LOGIN, "a:b:c, d : e ", "a:b:c, d : e"),  # a password may contain a colon
        (SIGNING, f"{SECRET}, ,{SECRET}", (SECRET, SECRET)),
        (ADDRESS, "http://h:1/p//", "http://h:1/p"),
        ("FLOWER_ADDRESS", "::1", "::1"),
    ],
)
def test_a_value_is_kept_in_one_form(variable: str, text: str, value: object) -> None:
    assert value_of(variable, text) == value


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        *((MODULES, text, "must name Python modules") for text in ("my app", "a..b", "a-b", "1a")),
        *((NAMES, text, "must be names") for text in ("ann,", ",ann", "a\x07b")),
        *((WORDS, text, "must be one word without blanks") for text in ("a b", "a,b c", "a\x07")),
        *((SPACE, text, "must be 1 to 64 letters") for text in ("a b", "ä", "a:b", "a/b")),
        *((LOGIN, text, "must be user:password") for text in ("a", ":b", "a:", " :b", "a:b,", ",")),
        *(
            (SIGNING, text, "must be whsec_ and at least 24 random bytes in Base64, or several")
            for text in (
                SECRET.removeprefix("whsec_"),  # only the encoded bytes
                f"{SECRET}!",
                f"{SECRET},whsec_x",
            )
        ),
        *(
            (ADDRESS, f"https://{text}", "must be a plain address without user, query or fragment")
            for text in ("h?a=b", "h#a", "u@h", ":p@h")
        ),
        ("FLOWER_ADDRESS", "a b", "must be one word without blanks"),
    ],
)
def test_a_value_of_another_form_is_refused(variable: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({variable: text})
    [sentence] = caught.value.sentences
    assert sentence.startswith(f"{variable} {words}")


def test_a_value_that_is_not_a_text_stays_as_it_is() -> None:
    limits = (("rpm", 30),)
    settings = Settings(
        services={"groq": {"limits": limits}, "resend": {}},
        notify_secret=None,
        flower_basic_auth=SecretStr("a:b"),
    )
    assert settings.services["groq"].limits == limits
    assert settings.services["resend"].models == ()
    assert webhook_secrets(settings.notify_secret) == ()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        # our class before the URL, so that Celery finds it
        ("worker.aio.backend:RedisBackend+redis://h:1/2", "redis://h:1/2"),
        (
            "worker.aio.backend:RedisBackend+socket:///run/r.sock?virtual_host=3",
            "redis+socket:///run/r.sock?db=3",
        ),
        ("redis://h:1/2?client_name=virtual_host", "redis://h:1/2?client_name=virtual_host"),
        (
            "sentinel://a:1;sentinel://b:2/0?master_name=m",
            "sentinel://a:1/0?master_name=m&sentinels=b:2",
        ),
    ],
)
def test_the_url_of_the_results_is_kept_as_a_person_would_write_it(given: str, used: str) -> None:
    kept_url = settings_from({"CELERY_RESULT_BACKEND": given}).result_backend_url
    assert kept_url == SecretUrl(used)
