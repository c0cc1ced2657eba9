"""The settings: one frozen object, and the only reader of the environment in this project."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.environment import (
    FILE_SUFFIX,
    look_up,
    merge,
    misspelt_names,
    read_dotenv,
    unknown_names,
)
from config.errors import SettingsError
from config.fields import (
    RESULT_BACKEND_CLASS,
    BaseUrl,
    CeleryUrl,
    Credentials,
    GroqLimits,
    Level,
    LogFormat,
    Namespace,
    PoolUrl,
    RedisUrl,
    ResendLimits,
    Seconds,
    SecondsOrNone,
    Token,
    WholeSeconds,
    Word,
    WordList,
)
from config.redis_url import ALL_SCHEMES
from config.redis_url import RedisUrl as ParsedUrl
from config.urls import SecretUrl, passwords_in

_PREFIX = "KEYWHEEL_"
_SHARED_PREFIXES: Final = {
    "GROQ_": 0.75, "RESEND_": 0.75, "ADMIN_": 0.88, "FLOWER_": 0.88, "REDIS_": 0.88, "CELERY_": 0.88
}  # fmt: skip
"""Prefixes of ours that others use as well, and how near a name must be to one of ours to be taken for it."""
_KEY_NAMES: Final = ("GROQ_API_KEY", "RESEND_API_KEY")
"""config/keys.py looks at those."""
_NUMBERS: Final = ("", *(f"_{number}" for number in range(1, 11)))
_OTHERS_OF: Final[dict[str, tuple[str, ...]]] = {
    "GROQ_": ("GROQ_API_KEY", "GROQ_LOG", *(f"GROQ_ACCOUNT{number}" for number in _NUMBERS)),
    "RESEND_": (
        "RESEND_API_KEY",
        *(f"RESEND_{kind}{number}" for kind in ("ACCOUNT", "FROM") for number in _NUMBERS),
    ),
    "ADMIN_": (),
    "FLOWER_": ("FLOWER_AUTH",),
    "REDIS_": ("REDIS_PASSWORD",),
    "CELERY_": ("CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"),
}
"""What else means something there, to us or to others."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Variable:
    """The environment variable of a field, where it is not KEYWHEEL_ and the field's name in capitals."""

    name: str


class Settings(BaseSettings):
    """Every setting but the provider keys, checked and frozen.

    The constructor takes fields by name and reads no environment, so tests and tools are safe from
    the machine's; `get_settings` is where the environment comes in. Units are in the names;
    `.env.example` explains each field.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    redis_url: Annotated[RedisUrl, _Variable("REDIS_URL")] = SecretUrl("redis://127.0.0.1:6379/0")
    broker_url: Annotated[CeleryUrl, _Variable("CELERY_BROKER_URL")] = Field(
        default_factory=lambda data: data["redis_url"]
    )
    result_backend_url: Annotated[CeleryUrl, _Variable("CELERY_RESULT_BACKEND")] = Field(
        default_factory=lambda data: data["redis_url"]
    )
    pool_url: PoolUrl = Field(default_factory=lambda data: data["redis_url"])
    namespace: Namespace = "kw"

    groq_base_url: Annotated[BaseUrl, _Variable("GROQ_BASE_URL")] = "https://api.groq.com"
    resend_api_url: Annotated[BaseUrl, _Variable("RESEND_API_URL")] = "https://api.resend.com"
    groq_model: Annotated[WordList, _Variable("GROQ_MODEL")] = "openai/gpt-oss-120b"
    groq_timeout_s: Seconds = 60
    resend_timeout_s: Seconds = 30

    groq_cooldown_s: Seconds = 60
    resend_cooldown_s: Seconds = 300
    server_error_cooldown_s: SecondsOrNone = 5
    groq_limits: GroqLimits = ()
    resend_limits: ResendLimits = ()
    max_wait_s: SecondsOrNone = 5
    deadline_s: Seconds = 86_400
    max_faults: Annotated[int, Field(ge=1, le=1_000)] = 5
    fault_backoff_s: Seconds = 1
    fault_backoff_max_s: Seconds = 60
    email_ambiguity: Literal["fail", "at_least_once"] = "fail"
    email_batches: bool = True

    visibility_timeout_s: WholeSeconds = 900
    worker_lease_s: SecondsOrNone = 30
    task_time_limit_s: WholeSeconds = 300
    task_soft_time_limit_s: WholeSeconds = 270
    worker_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 500
    sync_threads: Annotated[int, Field(ge=1, le=1_000)] = 16
    eta_task_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    result_expires_s: WholeSeconds = 86_400
    stream_expires_s: WholeSeconds = 600
    fast_transport: bool = True
    max_deliveries: Annotated[int, Field(ge=1, le=1_000)] = 5

    dead_letters: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    dead_letters_keep_s: WholeSeconds = 604_800
    dead_letters_mb: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    dead_letter_kb: Annotated[int, Field(ge=0, le=100_000)] = 1_024

    log_level: Level = "INFO"
    log_format: LogFormat = "text"
    show_content: bool = False
    status_interval_s: Seconds = 30
    check_keys_s: SecondsOrNone = 3_600

    flower_address: Annotated[Word, _Variable("FLOWER_ADDRESS")] = "127.0.0.1"
    flower_port: Annotated[int, Field(ge=1, le=65_535), _Variable("FLOWER_PORT")] = 5555
    flower_basic_auth: Annotated[Credentials, _Variable("FLOWER_BASIC_AUTH")] = None
    admin_token: Annotated[Token, _Variable("ADMIN_TOKEN")] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings gives the signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave only the constructor's arguments.

        The layers of the environment are merged in `read_environment`.
        """
        return (init_settings,)

    @property
    def longest_countdown_s(self) -> float:
        """How long a message may wait in a worker, in seconds.

        Beyond it the wait is made in several hops.

        Below half the visibility timeout: a message not acknowledged by then goes to another worker
        as well.
        """
        return self.visibility_timeout_s / 2 - 1

    @property
    def groq_models(self) -> tuple[str, ...]:
        """The models of jobs that name none, in order of preference."""
        return tuple(self.groq_model.split(","))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret among the settings in its shortest form, for those who must hide them.

        Passwords and tokens.
        """
        urls = (self.redis_url, self.broker_url, self.result_backend_url, self.pool_url)
        found = [password for url in urls for password in passwords_in(url.get_secret_value())]
        if self.flower_basic_auth:
            pairs = self.flower_basic_auth.get_secret_value().split(",")
            found += [pair.partition(":")[2].strip() for pair in pairs]
        if self.admin_token:
            found.append(self.admin_token.get_secret_value())
        return tuple(dict.fromkeys(found))

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if wrong := broken_relations(self):
            raise ValueError("\n".join(wrong))
        return self


def broken_relations(settings: Settings) -> list[str]:
    """List which settings do not go together, one sentence each with what to change."""
    hard_s, soft_s, visible_s = (
        settings.task_time_limit_s,
        settings.task_soft_time_limit_s,
        settings.visibility_timeout_s,
    )
    wrong = []
    if hard_s >= visible_s / 2:
        wrong.append(
            f"KEYWHEEL_TASK_TIME_LIMIT_S ({hard_s}) must stay below half of "
            "KEYWHEEL_VISIBILITY_TIMEOUT_S"
            f" ({visible_s}), or a running job is delivered twice: raise the latter above "
            f"{2 * hard_s}"
            " or lower the former."
        )
    if soft_s >= hard_s:
        wrong.append(
            f"KEYWHEEL_TASK_SOFT_TIME_LIMIT_S ({soft_s}) must stay below "
            f"KEYWHEEL_TASK_TIME_LIMIT_S ({hard_s}),"
            " or a job has no time to end in order: lower the former."
        )
    for service, timeout_s in (
        ("GROQ", settings.groq_timeout_s),
        ("RESEND", settings.resend_timeout_s),
    ):
        if timeout_s + settings.max_wait_s >= soft_s:
            wrong.append(
                f"KEYWHEEL_{service}_TIMEOUT_S ({timeout_s:g}) plus KEYWHEEL_MAX_WAIT_S "
                f"({settings.max_wait_s:g}) must"
                f" stay below KEYWHEEL_TASK_SOFT_TIME_LIMIT_S ({soft_s}), or one slow call ends "
                "the job:"
                " lower the former."
            )
    if settings.fault_backoff_s > settings.fault_backoff_max_s:
        wrong.append(
            f"KEYWHEEL_FAULT_BACKOFF_S ({settings.fault_backoff_s:g}) must not exceed"
            f" KEYWHEEL_FAULT_BACKOFF_MAX_S ({settings.fault_backoff_max_s:g}): lower the former."
        )
    if settings.fault_backoff_max_s >= visible_s / 2:
        wrong.append(
            f"KEYWHEEL_FAULT_BACKOFF_MAX_S ({settings.fault_backoff_max_s:g}) must stay below "
            "half of"
            f" KEYWHEEL_VISIBILITY_TIMEOUT_S ({visible_s}), or a waiting job is delivered twice: "
            "lower the former."
        )
    return wrong


def variable_of(field: str) -> str:
    """Name the environment variable of a field of `Settings`."""
    for item in Settings.model_fields[field].metadata:
        if isinstance(item, _Variable):
            return item.name
    return _PREFIX + field.upper()


SECRET_FIELDS: Final = frozenset(
    {
        "redis_url",
        "broker_url",
        "result_backend_url",
        "pool_url",
        "flower_basic_auth",
        "admin_token",
    }
)
"""The fields that may also come from a file, and whose values are never shown."""


def read_environment() -> dict[str, str]:
    """Read the process environment over `.env` of the working directory, afresh on every call.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    return merge(os.environ, read_dotenv(Path(".env")))


def no_dotenv() -> str | None:
    """Say that the working directory has no `.env`, if it has none.

    Most look for it in the project's folder.
    """
    return None if Path(".env").is_file() else f"There is no .env in {Path.cwd()}"


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Build the settings from an environment. A blank value counts as absent.

    Args:
        environ: The merged environment.

    Raises:
        SettingsError: Something is wrong; every wrong variable has its sentence.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    sentences: list[str] = []
    for field in Settings.model_fields:
        name = sources[field] = variable_of(field)
        if field not in SECRET_FIELDS:
            if text := environ.get(name, "").strip():
                values[field] = text
            continue
        found = look_up(environ, name)
        sources[field] = found.variable
        if found.problem:
            sentences.append(f"{found.variable} {found.problem}.")
        elif found.value:
            values[field] = found.value
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        # From None: pydantic's own text would be shown beside ours, and is not written for
        # operators.
        details = exc.errors(include_url=False, include_input=False)
        raise SettingsError(sentences + _sentences(details, sources)) from None
    if sentences:
        raise SettingsError(sentences)
    return settings


_PLAIN_WORDS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:.12g}",
    "finite_number": "must be a finite number",
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}


def _sentences(details: Any, sources: Mapping[str, str]) -> list[str]:
    sentences = []
    for detail in details:
        if detail["type"] == "default_factory_not_called":
            continue  # a URL that follows REDIS_URL, which has its own sentence
        if not detail["loc"]:
            sentences += str(detail["ctx"]["error"]).splitlines()
            continue
        field = str(detail["loc"][0])
        text = _PLAIN_WORDS.get(detail["type"], "is not valid").format(**detail.get("ctx", {}))
        unit = " (seconds)" if field.endswith("_s") else ""
        sentences.append(f"{sources[field]} {text}{unit}.")
    return sentences


def notices(environ: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """List what is odd about an environment that still works, one sentence each.

    Args:
        environ: The merged environment.
        settings: What was read from it.
    """
    known = {variable_of(field) for field in Settings.model_fields}
    files = {variable_of(field) for field in SECRET_FIELDS}
    sentences = list(
        unknown_names(
            environ, known=known | {name + FILE_SUFFIX for name in files}, prefix=_PREFIX
        ),
    )
    sentences += [
        f"{found.variable} {found.note}."
        for name in sorted(files)
        if (found := look_up(environ, name)).note
    ]
    for prefix, cutoff in _SHARED_PREFIXES.items():
        names = {*known, *(name + FILE_SUFFIX for name in files), *_OTHERS_OF[prefix]}
        sentences += misspelt_names(
            (name for name in environ if not name.startswith(_KEY_NAMES)),
            known=names,
            prefix=prefix,
            cutoff=cutoff,
        )
    if settings.show_content:
        sentences.append(
            "KEYWHEEL_SHOW_CONTENT is on: prompts and mail bodies are visible in Flower."
        )
    return tuple(sentences)


@cache
def get_settings() -> Settings:
    """Give the settings of this process, read at the first call.

    Oddities are logged as warnings then.

    Raises:
        SettingsError: Something is wrong; every wrong variable has its sentence.
    """
    environ = read_environment()
    settings = settings_from(environ)
    for sentence in notices(environ, settings):
        _log.warning(sentence)
    return settings


def reload_settings() -> Settings:
    """Read the settings again; those who hold the old object keep it.

    Raises: SettingsError: Something is wrong; the old settings are gone from the cache, but the old
    object is untouched.
    """
    get_settings.cache_clear()
    return get_settings()


@dataclass(frozen=True, slots=True)
class RedisUrls:
    """The URLs of the three roles, each as its library reads it.

    They hold passwords, so they are not for logs.

    Attributes:
        broker: For kombu.
        broker_as_pool: For redis-py.
        broker_db: The broker's database; kombu wants that of a socket by itself.
        broker_options: What kombu takes as transport options.
        results: For Celery's result backend.
        results_as_pool: For redis-py.
        pool: For redis-py.
    """

    broker: str
    broker_as_pool: str
    broker_db: int
    broker_options: dict[str, Any]
    results: str
    results_as_pool: str
    pool: str

    @classmethod
    def of(cls, settings: Settings) -> "RedisUrls":
        """Give those of the settings."""
        broker, results, pool = (
            ParsedUrl.read(url.get_secret_value(), schemes=ALL_SCHEMES)
            for url in (settings.broker_url, settings.result_backend_url, settings.pool_url)
        )
        url, options = broker.for_broker
        return cls(
            url,
            broker.for_pool,
            broker.db,
            options,
            results.for_results,
            results.for_pool,
            pool.for_pool,
        )


def claim_result_backend(settings: Settings) -> None:
    """Make Celery use our result backend although CELERY_RESULT_BACKEND is set.

    Celery reads that variable itself, before any configuration, and would take its own blocking
    backend. So our class is put before the URL in the variable; reading the settings again takes it
    off. Does nothing where it is unset.
    Source: `celery.app.utils.Settings.result_backend`, Celery 5.7.
    """
    if os.environ.get("CELERY_RESULT_BACKEND"):
        url = RedisUrls.of(settings).results
        os.environ["CELERY_RESULT_BACKEND"] = f"{RESULT_BACKEND_CLASS}+{url}"
