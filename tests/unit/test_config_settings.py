"""The settings: precedence, files, and a sentence for everything that is wrong."""

import os
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from config.current import get_settings, notices, reload_settings
from config.errors import SettingsError
from config.keys import MAX_KEYS
from config.redis_roles import claim_result_backend
from config.services import SERVICES
from config.settings import SECRET_FIELDS, Settings, settings_from, variable_of, variables
from config.urls import SecretUrl

ROOT = Path(__file__).parents[2]
CANARY = "Zq9canaryQz7"
WEBHOOK_SECRET = f"whsec_{CANARY * 3}"


pytestmark = pytest.mark.usefixtures("bare_environment")


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = settings_from({})
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.services["groq"].base_url == "https://api.groq.com"
    assert settings.worker_concurrency == 500
    assert settings.admin_token is None
    assert settings == Settings()
    assert notices({}, settings) == ()


def test_settings_are_frozen_and_refuse_unknown_fields() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.namespace = "other"
    with pytest.raises(ValidationError):
        Settings(nonsense=1)  # type: ignore[call-arg]


def test_the_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("KEYWHEEL_NAMESPACE=dotenv\n")
    monkeypatch.setenv("KEYWHEEL_MAX_RETRIES", "9")
    monkeypatch.setenv("MAX_FAULTS", "9")
    assert Settings() == settings_from({})


def test_the_other_urls_follow_the_redis_url_unless_they_are_set() -> None:
    settings = settings_from(
        {"REDIS_URL": "redis://a:1/1", "KEYWHEEL_POOL_URL": "unix:///run/redis.sock"}
    )
    assert settings.broker_url.get_secret_value() == "redis://a:1/1"
    assert settings.result_backend_url.get_secret_value() == "redis://a:1/1"
    assert settings.pool_url.get_secret_value() == "unix:///run/redis.sock"


def test_settings_are_read_once_until_they_are_reloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_settings()
    monkeypatch.setenv("GROQ_MODEL", "other")
    assert get_settings() is first
    assert reload_settings().services["groq"].model == "other"
    assert get_settings().services["groq"].model == "other"
    assert first.services["groq"].model != "other"


@pytest.mark.parametrize("field", sorted(SECRET_FIELDS))
def test_every_secret_may_come_from_a_file_and_is_never_shown(field: str, tmp_path: Path) -> None:
    value = {
        "admin_token": f"{CANARY}-{CANARY}",
        "flower_basic_auth": f"admin:{CANARY}",
        "notify_secret": WEBHOOK_SECRET,
    }.get(field, f"redis://user:{CANARY}@host:6379/0")
    (tmp_path / "secret").write_text(f"{value}\n")
    environ = {f"{variable_of(field)}_FILE": str(tmp_path / "secret")}
    settings = settings_from(environ)
    assert getattr(settings, field).get_secret_value() == value
    for shown in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        *notices(environ, settings),
    ):
        assert CANARY not in shown
        assert WEBHOOK_SECRET not in shown


def test_a_url_shows_everything_but_its_password() -> None:
    assert (
        str(settings_from({"REDIS_URL": "redis://user:hunter2@host:1/2"}).redis_url)
        == "redis://user:***@host:1/2"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pass@host:1/0", "redis://:***@host:1/0"),
        # a lone part before the @ may be a password by mistake
        ("redis://pass@host:1/0", "redis://***@host:1/0"),
        # quotes, an @ and a backslash in it
        ("redis://u:p'\\@\"s@host/0?x=y", "redis://u:***@host/0?x=y"),
        # of a cluster
        ("amqp://u:one@a:1//;amqp://u:two;@b//", "amqp://u:***@a:1//;amqp://u:***@b//"),
        ("unix:///run/redis.sock?db=1&password=pass", "unix:///run/redis.sock?***"),
    ],
)
def test_no_part_of_a_password_is_shown(url: str, shown: str) -> None:
    assert str(SecretUrl(url)) == shown
    assert repr(SecretUrl(url)) == f"SecretUrl({shown!r})"


WRONG = [
    # what is set, how the sentence begins
    ({"KEYWHEEL_MAX_RETRIES": "many"}, "KEYWHEEL_MAX_RETRIES must be a whole number."),
    ({"KEYWHEEL_MAX_RETRIES": "1.5"}, "KEYWHEEL_MAX_RETRIES must be a whole number."),
    ({"KEYWHEEL_MAX_RETRIES": "0"}, "KEYWHEEL_MAX_RETRIES must be at least 1."),
    ({"KEYWHEEL_GROQ_TIMEOUT_S": "60s"}, "KEYWHEEL_GROQ_TIMEOUT_S must be a number (seconds)."),
    (
        {"KEYWHEEL_RETRY_BACKOFF_S": "0"},
        "KEYWHEEL_RETRY_BACKOFF_S must be greater than 0 (seconds).",
    ),
    ({"KEYWHEEL_RETRY_BACKOFF_S": "nan"}, "KEYWHEEL_RETRY_BACKOFF_S must be"),
    ({"KEYWHEEL_DEADLINE_S": "inf"}, "KEYWHEEL_DEADLINE_S must be"),
    ({"FLOWER_PORT": "65536"}, "FLOWER_PORT must be at most 65535."),
    ({"KEYWHEEL_LOG_LEVEL": "loud"}, "KEYWHEEL_LOG_LEVEL must be one of 'DEBUG'"),
    ({"KEYWHEEL_LOG_FORMAT": "xml"}, "KEYWHEEL_LOG_FORMAT must be one of 'text' or 'json'."),
    ({"KEYWHEEL_SHOW_CONTENT": "perhaps"}, "KEYWHEEL_SHOW_CONTENT must be true or false."),
    ({"KEYWHEEL_NAMESPACE": "a{b}"}, "KEYWHEEL_NAMESPACE must be 1 to 64 letters"),
    ({"GROQ_MODEL": "two words"}, "GROQ_MODEL must be one word"),
    # addresses: no scheme, a wrong one, a user in it, no host
    ({"GROQ_BASE_URL": "api.groq.com"}, "GROQ_BASE_URL must start with https:// or http://."),
    ({"RESEND_API_URL": "ftp://host"}, "RESEND_API_URL must start with"),
    ({"RESEND_API_URL": "https://a:b@host"}, "RESEND_API_URL must be a plain address"),
    ({"RESEND_API_URL": "https:///path"}, "RESEND_API_URL has no valid host and port"),
    # Redis: a raw slash in the password, port zero, blanks, a foreign broker, a socket without a
    # path
    (
        {"REDIS_URL": f"redis://:{CANARY}/x@host:1/0"},
        "REDIS_URL has no valid host and port; percent-encode",
    ),
    ({"REDIS_URL": f"redis://:{CANARY}@host:0/0"}, "REDIS_URL has no valid host and port"),
    ({"REDIS_URL": f"redis://:{CANARY} x@host/0"}, "REDIS_URL must not contain blanks"),
    ({"REDIS_URL": CANARY}, "REDIS_URL must start with redis:// or rediss:// or sentinel://."),
    (
        {"CELERY_BROKER_URL": f"kafka://u:{CANARY}@host//"},
        "CELERY_BROKER_URL must start with redis:// or rediss:// or sentinel:// or redis+socket://",
    ),
    ({"CELERY_BROKER_URL": f"amqp://u:{CANARY}@/v"}, "CELERY_BROKER_URL has no valid host"),
    ({"CELERY_BROKER_URL": f"amqp://u:{CANARY}@h/v?x=1"}, "CELERY_BROKER_URL has an option that"),
    ({"CELERY_BROKER_URL": "amqps://h//?x=1"}, "CELERY_BROKER_URL has an option that is not known"),
    ({"CELERY_BROKER_URL": "amqps://a//;amqps://b//"}, "CELERY_BROKER_URL may name several nodes"),
    ({"CELERY_BROKER_URL": "amqp://a//;amqps://b//"}, "CELERY_BROKER_URL must have amqp:// or"),
    (
        {"CELERY_RESULT_BACKEND": f"amqp://u:{CANARY}@host//"},
        "CELERY_RESULT_BACKEND must start with redis://",
    ),
    ({"KEYWHEEL_POOL_URL": "unix://"}, "KEYWHEEL_POOL_URL must name a socket's path."),
    ({"REDIS_URL_FILE": "no/such/file"}, "REDIS_URL_FILE names a file that does not exist."),
    ({"REDIS_URL_FILE": "."}, "REDIS_URL_FILE does not name a plain file."),
    ({"FLOWER_BASIC_AUTH": CANARY}, "FLOWER_BASIC_AUTH must be user:password"),
    ({"FLOWER_BASIC_AUTH": f"a:{CANARY},b:"}, "FLOWER_BASIC_AUTH must be user:password"),
    ({"KEYWHEEL_NOTIFY_HOSTS": "https://a.example"}, "KEYWHEEL_NOTIFY_HOSTS must be hosts such"),
    ({"KEYWHEEL_NOTIFY_SECRET": CANARY}, "KEYWHEEL_NOTIFY_SECRET must be whsec_ and at least 24"),
    ({"KEYWHEEL_NOTIFY_SECRET": f"whsec_{CANARY}"}, "KEYWHEEL_NOTIFY_SECRET must be whsec_ and"),
    # relations
    (
        {"REDIS_URL": "sentinel://a/0?master_name=m", "KEYWHEEL_FAST_TRANSPORT": "false"},
        "KEYWHEEL_FAST_TRANSPORT=false does not work with sentinel://",
    ),
    ({"KEYWHEEL_NOTIFY_HOSTS": "a.example"}, "KEYWHEEL_NOTIFY_HOSTS needs KEYWHEEL_NOTIFY_SECRET"),
    ({"KEYWHEEL_TASK_TIME_LIMIT_S": "1"}, "KEYWHEEL_TASK_TIME_LIMIT_S must be at least 2"),
    (
        {"KEYWHEEL_GROQ_TIMEOUT_S": "270"},
        "KEYWHEEL_GROQ_TIMEOUT_S (270) must stay below 270 s, when KEYWHEEL_TASK_TIME_LIMIT_S",
    ),
    (
        {"KEYWHEEL_RESEND_TIMEOUT_S": "270"},
        "KEYWHEEL_RESEND_TIMEOUT_S (270) must stay below 270 s, when KEYWHEEL_TASK_TIME_LIMIT_S",
    ),
]


@pytest.mark.parametrize(("environ", "beginning"), WRONG)
def test_a_wrong_value_gives_one_sentence_that_names_its_variable(
    environ: dict[str, str], beginning: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(environ)
    (sentence,) = caught.value.sentences
    assert sentence.startswith(beginning)
    assert sentence.endswith(".")
    assert CANARY not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_all_that_is_wrong_is_said_at_once_and_survives_pickling() -> None:
    import pickle  # noqa: PLC0415

    with pytest.raises(SettingsError) as caught:
        settings_from({"REDIS_URL_FILE": "gone", "FLOWER_PORT": "x", "KEYWHEEL_MAX_RETRIES": "x"})
    assert [sentence.split()[0] for sentence in caught.value.sentences] == [
        "REDIS_URL_FILE",
        "KEYWHEEL_MAX_RETRIES",
        "FLOWER_PORT",
    ]
    assert pickle.loads(pickle.dumps(caught.value)).sentences == caught.value.sentences  # noqa: S301


@pytest.mark.usefixtures("untraced")
@given(
    st.sampled_from(sorted(SECRET_FIELDS)),
    st.text(alphabet=st.characters(codec="utf-8"), min_size=1).map(lambda text: CANARY + text),
)
@settings(max_examples=25 * len(SECRET_FIELDS))
def test_no_secret_value_is_ever_in_a_sentence(field: str, value: str) -> None:
    for text in (value, f"redis://:{value}@host:1/0", f"redis://{value}"):
        try:
            told = repr(settings_from({variable_of(field): text}))
        except SettingsError as exc:
            told = repr(exc)
        # Behind redis:// without a password stands a host, which is no secret.
        assert CANARY not in told or text == f"redis://{value}"


def test_weak_choices_are_noticed() -> None:
    environ = {"KEYWHEEL_SHOW_CONTENT": "yes"}
    assert [sentence.split()[0] for sentence in notices(environ, settings_from(environ))] == [
        "KEYWHEEL_SHOW_CONTENT"
    ]


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        # what other OpenAI-compatible clients want
        ("https://api.groq.com/openai/v1", "https://api.groq.com"),
        ("https://proxy.example/groq/openai/v1/", "https://proxy.example/groq"),
    ],
)
def test_base_urls_are_brought_into_one_form(given_url: str, used: str) -> None:
    assert settings_from({"GROQ_BASE_URL": given_url}).services["groq"].base_url == used


def test_words_are_read_whatever_their_case() -> None:
    settings = settings_from({"KEYWHEEL_LOG_LEVEL": "debug", "KEYWHEEL_LOG_FORMAT": "JSON"})
    assert (settings.log_level, settings.log_format) == ("DEBUG", "json")
    with pytest.raises(ValidationError):
        Settings(log_level=3)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Settings(log_format=3)  # type: ignore[arg-type]


def test_our_result_backend_is_kept_although_celery_reads_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim_result_backend(get_settings())
    assert "CELERY_RESULT_BACKEND" not in os.environ
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://results:1/0")
    settings = reload_settings()
    claim_result_backend(settings)
    assert (
        os.environ["CELERY_RESULT_BACKEND"] == "worker.aio.backend:RedisBackend+redis://results:1/0"
    )
    assert reload_settings() == settings


def test_the_secrets_are_named_for_those_who_hide_them() -> None:
    assert Settings().secrets == ()
    environ = {
        "REDIS_URL": "redis://user:p%40ss@host:1/0",
        "KEYWHEEL_POOL_URL": "redis://lone@host:1/0",
        "FLOWER_BASIC_AUTH": "a:first, b:second",
        "ADMIN_TOKEN": "token-token-token",
    }
    assert settings_from(environ).secrets == (
        "p%40ss",
        "p@ss",
        "first",
        "second",
        "token-token-token",
    )


def test_limits_are_read_by_their_names() -> None:
    settings = settings_from(
        {"KEYWHEEL_GROQ_LIMITS": "RPM=30, tpm = 6000", "KEYWHEEL_RESEND_LIMITS": "rps=2,epd=100"}
    )
    assert settings.services["groq"].limits == (("rpm", 30), ("tpm", 6_000))
    assert settings.services["resend"].limits == (("rps", 2), ("epd", 100))
    assert settings_from({"KEYWHEEL_GROQ_LIMITS": " "}).services["groq"].limits == ()


@pytest.mark.parametrize(
    "text", ["30", "rps=2", "rpm=0", "rpm=-1", "rpm=x", "rpm=30,rpm=40", "rpm", "rpm=1e3"]
)
def test_wrong_limits_are_refused_with_the_names_that_there_are(text: str) -> None:
    with pytest.raises(
        SettingsError,
        match=r"KEYWHEEL_GROQ_LIMITS .*must be limits such as rpm=30, of rpm, rpd, tpm",
    ):
        settings_from({"KEYWHEEL_GROQ_LIMITS": text})


def test_the_example_names_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    shown = dotenv_values(ROOT / ".env.example")
    offered = {}
    for line in text.splitlines():
        name, separator, value = line.removeprefix("# ").partition("=")
        if separator and name.isidentifier() and name.isupper():
            offered[name] = value
    assert shown.items() <= offered.items()
    assert set(variables().values()) <= set(offered)
    suffixes = ("", *(f"_{number}" for number in range(2, MAX_KEYS + 1)))
    others = {
        f"{service.upper()}_{kind}{suffix}"
        for service in SERVICES
        for kind in ("API_KEY", "ACCOUNT", "FROM")
        for suffix in suffixes
    }
    assert set(offered) - set(variables().values()) <= others
    assert settings_from(offered) == Settings()
    # A default that is no blank is written out.
    settings = Settings()
    for (field, *of_service), name in variables().items():
        if field not in SECRET_FIELDS:
            holder: Any = settings.services[of_service[0]] if of_service else settings
            default = getattr(holder, of_service[-1] if of_service else field)
            assert offered[name] == written(default), name


def written(default: Any) -> str:
    """Write a default as a person would."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default == () else str(default)


def test_times_that_belong_together_follow_the_time_limit() -> None:
    for limit_s in (2, 10, 60, 300, 5_000):
        settings = Settings(
            task_time_limit_s=limit_s,
            services={service: {"timeout_s": 0.5} for service in SERVICES},
        )
        assert 0 < settings.max_wait_s + 0.5 < settings.task_soft_time_limit_s
        assert (
            limit_s / 2
            <= settings.task_soft_time_limit_s
            < limit_s
            < settings.visibility_timeout_s / 2
        )
    assert (Settings().task_soft_time_limit_s, Settings().visibility_timeout_s) == (270, 900)
    assert Settings().retry_backoff_max_s == 60
    assert Settings().max_wait_s == 5
    slow = Settings(services={"groq": {"timeout_s": 262}})
    assert slow.max_wait_s == 4, "a slow call after a wait ends before the job is stopped"


def test_settings_of_a_service_that_is_unknown_are_refused() -> None:
    with pytest.raises(ValidationError, match="there is no service grok"):
        Settings(services={"grok": {}})


def test_groq_model_may_be_several_in_order_of_preference() -> None:
    assert Settings(services={"groq": {"model": "one, two ,one,"}}).models == {
        "groq": ("one", "two")
    }
    assert Settings().models == {"groq": ("openai/gpt-oss-120b",)}
