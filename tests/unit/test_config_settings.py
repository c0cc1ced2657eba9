"""The settings: their sources, their defaults, and the accepted formats."""

import os
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from pydantic import ValidationError

from config.current import get_settings, notices, reload_settings
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
    # A library's log line about it is redacted.
    assert any(CANARY in secret for secret in settings.secrets)


def test_a_url_shows_everything_but_its_password() -> None:
    assert (
        str(settings_from({"REDIS_URL": "redis://user:hunter2@host:1/2"}).redis_url)
        == "redis://user:***@host:1/2"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pass@host:1/0", "redis://:***@host:1/0"),
        # the only part before the @ may be a password by mistake
        ("redis://pass@host:1/0", "redis://***@host:1/0"),
        # quotes, an @ and a backslash in it
        ("redis://u:p'\\@\"s@host/0?x=y", "redis://u:***@host/0?x=y"),
        # the URL of a cluster
        ("amqp://u:one@a:1//;amqp://u:two;@b//", "amqp://u:***@a:1//;amqp://u:***@b//"),
        ("unix:///run/redis.sock?db=1&password=pass", "unix:///run/redis.sock?***"),
    ],
)
def test_no_part_of_a_password_is_shown(url: str, shown: str) -> None:
    assert str(SecretUrl(url)) == shown
    assert repr(SecretUrl(url)) == f"SecretUrl({shown!r})"


def test_weak_choices_are_noticed() -> None:
    environ = {"KEYWHEEL_SHOW_CONTENT": "yes"}
    assert [sentence.split()[0] for sentence in notices(environ, settings_from(environ))] == [
        "KEYWHEEL_SHOW_CONTENT"
    ]


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        # the form that other OpenAI-compatible clients require
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


def test_the_settings_list_the_secrets_that_logs_redact() -> None:
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
    of_services = {
        f"{service.upper()}_{kind}{suffix}"
        for service in SERVICES
        for kind in ("API_KEY", "ACCOUNT", "FROM")
        for suffix in suffixes
    }
    assert set(offered) - set(variables().values()) <= of_services
    assert settings_from(offered) == Settings()
    # A default other than an empty one is written out.
    settings = Settings()
    for (field, *of_service), name in variables().items():
        if field not in SECRET_FIELDS:
            holder: Any = settings.services[of_service[0]] if of_service else settings
            default = getattr(holder, of_service[-1] if of_service else field)
            assert offered[name] == written(default), name


def written(default: Any) -> str:
    """Return a default as a person would write it."""
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


def test_groq_model_may_be_several_in_order_of_preference() -> None:
    assert Settings(services={"groq": {"model": "one, two ,one,"}}).models == {
        "groq": ("one", "two")
    }
    assert Settings().models == {"groq": ("openai/gpt-oss-120b",)}
