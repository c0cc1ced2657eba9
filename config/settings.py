"""Defines the settings, one frozen object, and reads them from the environment."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.environment import look_up
from config.errors import SettingsError
from config.fields import (
    BrokerUrl,
    Credentials,
    Hosts,
    Level,
    LogFormat,
    Modules,
    Names,
    Namespace,
    PoolUrl,
    RedisUrl,
    ResultsUrl,
    Seconds,
    SecondsOrNone,
    Token,
    Unit,
    WebhookSecrets,
    WholeSeconds,
    Word,
    webhook_secrets,
)
from config.sentences import sentences_of
from config.service_settings import ServiceSettings, settings_of_each, variables_of
from config.services import SERVICES
from config.time_limits import longest_wait_s, slow_services, soft_limit_s
from config.urls import SecretUrl, passwords_in

_PREFIX = "KEYWHEEL_"
_BACKOFF_MAX_RATIO: Final = 60
_VISIBILITY_RATIO: Final = 3
_log = logging.getLogger(__name__)


_NEEDS_OURS: Final = (
    "KEYWHEEL_FAST_TRANSPORT=false does not work with sentinel:// as broker: leave it out."
)
_UNSIGNED: Final = (
    "KEYWHEEL_NOTIFY_HOSTS needs KEYWHEEL_NOTIFY_SECRET, the secret that signs notifications."
)


@dataclass(frozen=True, slots=True)
class _Variable:
    """The environment variable of a field. Default: `KEYWHEEL_` and the field in capitals."""

    name: str


class _Fixed:
    """Marks a field without a variable. Only callers of the constructor, such as tests, set it."""


class Settings(BaseSettings):
    """Every setting but the API keys, checked and frozen.

    The constructor takes fields by name and reads no environment, so that tests and tools do not
    depend on the machine; `get_settings` reads the environment. Units are in the names. `make docs`
    writes `docs/settings.md` and `.env.example` from this class: the text below a field is its text
    there, and a comment begins a section.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    # Redis
    redis_url: Annotated[RedisUrl, _Variable("REDIS_URL")] = SecretUrl("redis://127.0.0.1:6379/0")
    """One Redis for jobs, results and the shared state of the keys. `redis://`, `rediss://` or
    `sentinel://`; percent-encode special characters of the password."""
    broker_url: Annotated[BrokerUrl, _Variable("CELERY_BROKER_URL")] = Field(
        default_factory=lambda data: data["redis_url"]
    )
    """Another Redis for the jobs, or RabbitMQ (`amqp://` or `amqps://`)."""
    result_backend_url: Annotated[ResultsUrl, _Variable("CELERY_RESULT_BACKEND")] = Field(
        default_factory=lambda data: data["redis_url"]
    )
    """Another Redis for the results."""
    pool_url: PoolUrl = Field(default_factory=lambda data: data["redis_url"])
    """Another Redis for the state and the usage of the keys, the records of emails, dead letters,
    cancels and streams."""
    namespace: Namespace = "kw"
    """The prefix of every Redis name in `KEYWHEEL_POOL_URL`. Letters, digits, dots, dashes,
    underscores."""

    # Services
    services: Mapping[str, ServiceSettings] = Field(default_factory=dict)
    """The settings of each service; see `config.service_settings`."""
    check_keys_s: SecondsOrNone = 3_600
    """How often a worker asks the providers for the permissions and quotas of its keys. It also
    asks when it starts and after a reload. 0: never."""

    # Jobs
    deadline_s: Seconds = 86_400
    """How long a job may take, counted from its first run. The job's own `deadline_s` replaces
    it."""
    max_retries: Annotated[int, Field(ge=1, le=1_000), Unit("tries")] = 5
    """How many tries a job has, including the first, if it fails while other jobs succeed. A
    provider outage costs no try."""
    retry_backoff_s: Seconds = 1
    """The wait after the first failed try. It doubles with each further failed try, with jitter, up
    to 60 times this value."""
    email_ambiguity: Literal["fail", "at_least_once"] = "fail"
    """What happens to an email if the account that may have accepted it is now gone, or refuses it.
    `fail`: the job ends as `OutcomeUnknown`. `at_least_once`: another account sends the email,
    perhaps a second time."""
    result_expires_s: WholeSeconds = 86_400
    """How long results are kept."""

    # Workers
    tasks: Modules = ""
    """Modules with tasks of your own, such as `myapp.jobs`, separated by commas. Each worker
    imports them, and their jobs go to the queue `jobs`."""
    worker_concurrency: Annotated[int, Field(ge=1, le=100_000), Unit("jobs")] = 500
    """How many jobs one worker process runs at a time."""
    task_time_limit_s: Annotated[int, Field(ge=2, le=10 * 86_400), Unit("seconds")] = 300
    """How long one run of a job may take; then the job ends for good. 30 s earlier, or after half
    of this time if that is later, the run is stopped so that the job can be tried again."""
    worker_lease_s: SecondsOrNone = 30
    """How long after its last heartbeat a worker's jobs are redelivered. With 0, or with Celery's
    own transport, a job is redelivered if its message was not acknowledged within three times
    `KEYWHEEL_TASK_TIME_LIMIT_S`."""
    fast_transport: bool = True
    """Whether to take jobs from Redis in batches, without losing any when a worker is killed.
    `false` uses Celery's own transport, which a broker behind a Unix socket always uses."""

    # Dead letters
    dead_letters_keep_s: WholeSeconds = 604_800
    """How long a dead letter is kept. If there are more than 10,000, the oldest are deleted."""
    dead_letters_mb: Annotated[int, Field(ge=0, le=1_000_000), Unit("MB")] = 256
    """Memory for the arguments of all dead letters together. Beyond it, the oldest dead letters
    lose their arguments and cannot be replayed. Arguments above 1 MB are never kept. 0: no
    arguments are kept."""

    # Notifications
    notify_hosts: Hosts = ""
    """The hosts that a job's `notify` may name, separated by commas, such as
    `hooks.example.com`, each with its port if that is not the default one. A host with a private
    address needs `=private`, as in `app.internal:8080=private`; then it may also use plain HTTP.
    Empty: no results are pushed."""
    notify_secret: WebhookSecrets = None
    """The secret that signs notifications (Standard Webhooks): `whsec_` and 24 random bytes or more
    in Base64. With several secrets, separated by commas, each notification has a signature by each
    of them."""

    # Logs and status
    log_level: Level = "INFO"
    """The lowest level that is logged."""
    log_format: LogFormat = "text"
    """The format of a log record, which is one line: a text or a JSON object."""
    show_content: bool = False
    """Whether Flower shows prompts and mail bodies, for debugging only."""
    heartbeat_path: Annotated[str, Unit("path")] = ""
    """A file that a worker renews each second, for `python -m worker.probe`. Each worker needs a
    file of its own. Empty: no file."""

    # Flower
    flower_address: Annotated[Word, _Variable("FLOWER_ADDRESS"), Unit("address")] = "127.0.0.1"
    """The address that Flower listens on. Without a login (`FLOWER_BASIC_AUTH` or Flower's OAuth),
    Flower uses 127.0.0.1 instead of an address that other machines can reach."""
    flower_port: Annotated[int, Field(ge=1, le=65_535), _Variable("FLOWER_PORT"), Unit("port")] = (
        5555
    )
    """The port that Flower listens on."""
    flower_basic_auth: Annotated[Credentials, _Variable("FLOWER_BASIC_AUTH")] = None
    """Flower's login, or several separated by commas. Until this or `ADMIN_TOKEN` is set, every
    request to the admin endpoints is rejected."""
    admin_token: Annotated[Token, _Variable("ADMIN_TOKEN")] = None
    """A bearer token with which programs use the admin endpoints; 16 random characters or more."""
    admin_users: Annotated[Names, _Variable("ADMIN_USERS")] = ""
    """The users who may change something in Flower: names of `FLOWER_BASIC_AUTH` or of Flower's
    OAuth, separated by commas. All other users who log in may only look. Empty: every user may do
    everything."""

    # Fixed
    max_wait_s: Annotated[SecondsOrNone, _Fixed] = Field(
        default_factory=lambda data: longest_wait_s(data["services"], data["task_time_limit_s"])
    )
    """How long a job waits in its worker for a key. If no key may be called within this time, the
    job goes back to its queue (state `RETRY`)."""
    status_interval_s: Annotated[Seconds, _Fixed] = 30
    """How often a worker publishes the state of its keys."""
    max_deliveries: Annotated[int, _Fixed] = 5
    """After this number of worker deaths that count against it, a job is not run again, but becomes
    a dead letter."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings gives the signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep only the constructor's arguments; `settings_from` reads the environment."""
        return (init_settings,)

    @property
    def task_soft_time_limit_s(self) -> int:
        """After how many seconds a running job is stopped so that it can be tried again."""
        return soft_limit_s(self.task_time_limit_s)

    @property
    def visibility_timeout_s(self) -> int:
        """After how many seconds unacknowledged jobs are redelivered if there are no leases."""
        return _VISIBILITY_RATIO * self.task_time_limit_s

    @property
    def retry_backoff_max_s(self) -> float:
        """The longest wait after a failed try, in seconds."""
        return _BACKOFF_MAX_RATIO * self.retry_backoff_s

    @property
    def task_modules(self) -> tuple[str, ...]:
        """The modules with the user's own tasks."""
        return tuple(filter(None, self.tasks.split(",")))

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """The models of jobs that name none, in order of preference, by service."""
        return {name: service.models for name, service in self.services.items() if service.models}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every password and token among the settings, in its shortest form, for redaction."""
        urls = (self.redis_url, self.broker_url, self.result_backend_url, self.pool_url)
        found = [password for url in urls for password in passwords_in(url.get_secret_value())]
        if self.flower_basic_auth:
            pairs = self.flower_basic_auth.get_secret_value().split(",")
            found += [pair.partition(":")[2].strip() for pair in pairs]
        if self.admin_token:
            found.append(self.admin_token.get_secret_value())
        found += webhook_secrets(self.notify_secret)
        return tuple(dict.fromkeys(found))

    @field_validator("services", mode="before")
    @classmethod
    def _complete_services(cls, given: Any) -> Any:
        return settings_of_each(given)

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        wrong = slow_services(self.services, self.task_time_limit_s)
        if self.notify_hosts and self.notify_secret is None:
            wrong.append(_UNSIGNED)
        broker = self.broker_url.get_secret_value()
        if broker.startswith("sentinel://") and not self.fast_transport:
            wrong.append(_NEEDS_OURS)
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


def variable_of(field: str) -> str:
    """Name the environment variable of a field of `Settings`."""
    for item in Settings.model_fields[field].metadata:
        if isinstance(item, _Variable):
            return item.name
    return _PREFIX + field.upper()


SECRET_FIELDS: Final = frozenset({
    "redis_url", "broker_url", "result_backend_url", "pool_url", "flower_basic_auth", "admin_token",
    "notify_secret",
})  # fmt: skip
"""The fields that may also come from a file, and whose values are never shown."""


def variables() -> dict[tuple[str, ...], str]:
    """Name every environment variable by the place of its field, such as `("namespace",)`.

    The place of a setting of a service is, for example, `("services", "groq", "timeout_s")`.
    """
    paths: dict[tuple[str, ...], str] = {}
    for field, info in Settings.model_fields.items():
        if field == "services":
            for service in SERVICES.values():
                names = variables_of(service)
                paths |= {("services", service.name, name): names[name] for name in names}
        elif _Fixed not in info.metadata:
            paths[field,] = variable_of(field)
    return paths


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Build the settings from an environment. A blank value counts as absent.

    Args:
        environ: The merged environment.

    Raises:
        SettingsError: A variable is wrong; the error has a sentence for each wrong variable.
    """
    values: dict[str, Any] = {}
    sources: dict[tuple[str, ...], str] = variables()
    sentences: list[str] = []
    for path, name in variables().items():
        if path[0] in SECRET_FIELDS:
            found = look_up(environ, name)
            sources[path] = found.variable
            if found.problem:
                sentences.append(f"{found.variable} {found.problem}.")
            text = found.value
        else:
            text = environ.get(name, "").strip()
        if text:
            *above, field = path
            holder = values
            for part in above:
                holder = holder.setdefault(part, {})
            holder[field] = text
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        # The cause is dropped, because pydantic's own text is not written for operators.
        details = exc.errors(include_url=False, include_input=False)
        raise SettingsError(sentences + sentences_of(details, sources)) from None
    if sentences:
        raise SettingsError(sentences)
    return settings
