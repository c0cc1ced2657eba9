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
    Unit,
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


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What concerns one service."""

    base_url: str
    timeout_s: float
    cooldown_s: float
    limits: tuple[tuple[str, int], ...]


class Settings(BaseSettings):
    """Every setting but the provider keys, checked and frozen.

    The constructor takes fields by name and reads no environment, so tests and tools are safe from
    the machine's; `get_settings` is where the environment comes in. Units are in the names. The
    text below a field is what `docs/settings.md` and `.env.example` say of it, and a comment begins
    a section there: `make docs` writes both.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    # Redis
    redis_url: Annotated[RedisUrl, _Variable("REDIS_URL")] = SecretUrl("redis://127.0.0.1:6379/0")
    """One Redis for jobs, results and the shared state of the keys.

    `redis://` or `rediss://`; percent-encode special
    characters of the password."""
    broker_url: Annotated[CeleryUrl, _Variable("CELERY_BROKER_URL")] = Field(
        default_factory=lambda data: data["redis_url"]
    )
    """Another Redis for the jobs."""
    result_backend_url: Annotated[CeleryUrl, _Variable("CELERY_RESULT_BACKEND")] = Field(
        default_factory=lambda data: data["redis_url"]
    )
    """Another Redis for the results."""
    pool_url: PoolUrl = Field(default_factory=lambda data: data["redis_url"])
    """Another Redis for the state of the keys, emails in doubt, dead letters, cancels and streams."""
    namespace: Namespace = "kw"
    """The prefix of every Redis name in `KEYWHEEL_POOL_URL`.

    Letters, digits, dots, dashes, underscores.
    """

    # Providers
    groq_base_url: Annotated[BaseUrl, _Variable("GROQ_BASE_URL")] = "https://api.groq.com"
    """The address of Groq's API."""
    resend_api_url: Annotated[BaseUrl, _Variable("RESEND_API_URL")] = "https://api.resend.com"
    """The address of Resend's API."""
    groq_model: Annotated[WordList, _Variable("GROQ_MODEL"), Unit("models")] = "openai/gpt-oss-120b"
    """The model of jobs that name none, or several models in order of preference, separated by commas: a job takes
    the first one that a key can serve now. Groq lists the models that it switches off, with dates,
    at <https://console.groq.com/docs/deprecations>."""
    groq_timeout_s: Seconds = 60
    """Read timeout for Groq; a complete call may take up to twice as long."""
    resend_timeout_s: Seconds = 30
    """Read timeout for Resend; a complete call may take up to twice as long."""

    # Keys
    groq_cooldown_s: Seconds = 60
    """How long a limited key of Groq rests when Groq does not say how long."""
    resend_cooldown_s: Seconds = 300
    """How long a limited key of Resend rests when Resend does not say how long."""
    server_error_cooldown_s: SecondsOrNone = 5
    """How long a key rests after a provider error (5xx)."""
    groq_limits: GroqLimits = ()
    """Limits of each account and model at Groq until the real ones are learned, such as `rpm=30,tpm=6000`; also `rpd`
    and `tpd`. None is needed. Groq states requests a minute and tokens a day only when it refuses a
    call, so a value below the real limit is raised only step by step."""
    resend_limits: ResendLimits = ()
    """Limits of each Resend team until the real ones are learned, such as `rps=2,epd=100`.

    `epd` counts emails a day,
    `epmo` emails a month."""
    check_keys_s: SecondsOrNone = 3_600
    """How often a worker asks the providers what its keys may do and which quotas they have.

    It also asks at its start
    and after a reload. 0: never."""

    # Jobs
    max_wait_s: SecondsOrNone = 5
    """If no key may be called for longer than this, a job goes back to its queue (state `RETRY`).

    Otherwise it waits
    in the worker."""
    deadline_s: Seconds = 86_400
    """How long a job may take, counted from its first run.

    The job's own `deadline_s` replaces it.
    """
    max_faults: Annotated[int, Field(ge=1, le=1_000), Unit("tries")] = 5
    """How often a job is tried that fails while other jobs succeed.

    A provider outage costs no try.
    """
    fault_backoff_s: Seconds = 1
    """The wait after the first failed try. It doubles with each further one, with jitter."""
    fault_backoff_max_s: Seconds = 60
    """The longest such wait."""
    email_ambiguity: Literal["fail", "at_least_once"] = "fail"
    """What becomes of an email that may have been accepted by an account that is now gone or refuses it. `fail`: the
    job ends as `OutcomeUnknown`. `at_least_once`: another account sends it, perhaps a second time."""
    email_batches: bool = True
    """Send emails that wait for the rate limit together, up to 100 in one call."""
    result_expires_s: WholeSeconds = 86_400
    """How long results are kept."""
    stream_expires_s: WholeSeconds = 600
    """How long a streamed answer is kept after its last record."""

    # Workers
    worker_concurrency: Annotated[int, Field(ge=1, le=100_000), Unit("jobs")] = 500
    """How many jobs one worker process runs at a time."""
    sync_threads: Annotated[int, Field(ge=1, le=1_000), Unit("threads")] = 16
    """Threads for plain `def` tasks of your own."""
    task_time_limit_s: WholeSeconds = 300
    """When a running job is ended for good.

    Must be below half of `KEYWHEEL_VISIBILITY_TIMEOUT_S`.
    """
    task_soft_time_limit_s: WholeSeconds = 270
    """When a running job is stopped so that it can be tried again.

    Must be below `KEYWHEEL_TASK_TIME_LIMIT_S`.
    """
    worker_lease_s: SecondsOrNone = 30
    """How long after its last heartbeat a worker's jobs are redelivered. 0 uses `KEYWHEEL_VISIBILITY_TIMEOUT_S`
    instead."""
    visibility_timeout_s: WholeSeconds = 900
    """When unacknowledged jobs are redelivered if `KEYWHEEL_WORKER_LEASE_S` is 0 or Celery's own transport is used.
    With Celery's transport a deferral waits half of it at most."""
    fast_transport: bool = True
    """Take jobs from Redis in batches, without losing any when a worker is killed.

    `false` uses Celery's own transport,
    as a broker behind a socket always does."""
    eta_task_limit: Annotated[int, Field(ge=1, le=1_000_000), Unit("jobs")] = 10_000
    """How many jobs with a countdown one worker holds in memory at most.

    Deferred jobs wait in Redis instead, unless
    Celery's own transport is used."""

    # Dead letters
    max_deliveries: Annotated[int, Field(ge=1, le=1_000), Unit("deaths")] = 5
    """After this number of worker deaths that count against it, a job becomes a dead letter instead of running
    again."""
    dead_letters: Annotated[int, Field(ge=0, le=1_000_000), Unit("letters")] = 10_000
    """How many dead letters are kept; the oldest go first. 0: none."""
    dead_letters_keep_s: WholeSeconds = 604_800
    """How long a dead letter is kept."""
    dead_letters_mb: Annotated[int, Field(ge=0, le=1_000_000), Unit("MB")] = 256
    """Memory for the arguments of all dead letters together.

    Beyond it the oldest letters lose their arguments.
    """
    dead_letter_kb: Annotated[int, Field(ge=0, le=100_000), Unit("KB")] = 1_024
    """The largest arguments that are kept with one dead letter.

    A job with larger ones cannot be replayed.
    """

    # Logs and status
    log_level: Level = "INFO"
    """The lowest level that is logged."""
    log_format: LogFormat = "text"
    """One line a record, as text or as a JSON object."""
    show_content: bool = False
    """Show prompts and mail bodies in Flower, for debugging only."""
    status_interval_s: Seconds = 30
    """How often a worker publishes the state of its keys."""

    # Flower
    flower_address: Annotated[Word, _Variable("FLOWER_ADDRESS"), Unit("address")] = "127.0.0.1"
    """Where Flower listens.

    Without `FLOWER_BASIC_AUTH` it stays on 127.0.0.1 whatever this says.
    """
    flower_port: Annotated[int, Field(ge=1, le=65_535), _Variable("FLOWER_PORT"), Unit("port")] = (
        5555
    )
    """The port that Flower listens on."""
    flower_basic_auth: Annotated[Credentials, _Variable("FLOWER_BASIC_AUTH")] = None
    """Flower's login, or several separated by commas.

    Until this or `ADMIN_TOKEN` is set, every request to the admin
    endpoints is rejected."""
    admin_token: Annotated[Token, _Variable("ADMIN_TOKEN")] = None
    """A bearer token with which programs use the admin endpoints; 16 random characters or more."""

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

    def service(self, name: str) -> ServiceSettings:
        """Give what concerns one service."""
        groq = name == "groq"
        return ServiceSettings(
            self.groq_base_url if groq else self.resend_api_url,
            self.groq_timeout_s if groq else self.resend_timeout_s,
            self.groq_cooldown_s if groq else self.resend_cooldown_s,
            self.groq_limits if groq else self.resend_limits,
        )

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """The models of jobs that name none, in order of preference, by service."""
        return {"groq": self.groq_models}

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

    Raises:
        SettingsError: Something is wrong; the old settings are gone from the cache, but the old
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
