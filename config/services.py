"""Defines the services that jobs are sent to. All other code reads them from here.

To add a service, edit two files and write two new ones:

1. Here, add its `Service` to `SERVICES`. Then it has keys (`NAME_API_KEY`, `NAME_API_KEY_2` …),
   settings, a queue and a key pool. It also appears in `keys status`, on the page, in the metrics,
   in resets and among the dead letters.
2. In `worker/providers/registry.py`, map its name to the class that calls it.
3. Write that class, a `worker.providers.registry.Client`: the wire format, and the verdict on each
   answer.
4. Write the module with its tasks, which `Service.tasks` names. Declare each task with
   `@app.task(..., service="name")`.

`docs/contributing/add-a-provider.md` shows each step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The properties of one service that do not depend on settings.

    Attributes:
        name: The service's name in lower case. In capitals it is the prefix of its variables.
        queue: The queue of its jobs. Several services may share a queue. Then the worker still
            serves the jobs of each service as fast as its keys allow, but they stand in one line.
        tasks: The module with its tasks. A task `tasks.ai.complete` that is sent without a queue
            goes to the queue of the service whose module is `tasks.ai`.
        icon: The icon of log lines that name the used key.
        key_prefix: The prefix of each key, such as `gsk_`; empty if keys have no prefix. A key
            without it is used, with a warning. Logs hide all texts that look like such a key.
        key_lengths: The usual lengths of a key, in characters. Another length causes a warning.
        base_url: The address of its API, unless `base_url_variable` is set.
        base_url_variable: The variable for another address. Default: `NAME_BASE_URL`.
        timeout_s: The default of `KEYWHEEL_NAME_TIMEOUT_S`, in seconds.
        cooldown_s: The default of `KEYWHEEL_NAME_COOLDOWN_S`, in seconds.
        limit_dimensions: The limits that `KEYWHEEL_NAME_LIMITS` may state, as
            `worker.verdicts.Dimension` names them.
        sends_once: Whether its requests must not be carried out twice, as for emails. Such a
            service uses the email path: an idempotency key, the same bytes and the same account
            until the outcome is known. Its client must take the same requests as `Resend`. Any
            other service uses the plain path, which repeats a request that failed.
        has_senders: Whether each key may have its own from address (`NAME_FROM`, `NAME_FROM_2` …).
        names_accounts: Whether it names a key's account in its refusals, so that workers learn it.
            If not, each key counts as an account of its own, unless `NAME_ACCOUNT` names one.
        models: The default of `NAME_MODEL`; empty if the service has no models.
        notes: Texts that the documentation adds to the texts of settings, by field.
    """

    name: str
    queue: str
    tasks: str
    icon: str
    key_prefix: str
    key_lengths: range
    base_url: str
    timeout_s: float
    cooldown_s: float
    limit_dimensions: tuple[str, ...]
    base_url_variable: str = ""
    sends_once: bool = False
    has_senders: bool = False
    names_accounts: bool = False
    models: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name with a capital letter."""
        return self.name.capitalize()

    @property
    def prefix(self) -> str:
        """The prefix of the names of its variables, such as `GROQ_`."""
        return f"{self.name.upper()}_"


GROQ: Final = Service(
    name="groq",
    queue="ai",
    tasks="tasks.ai",
    icon="🤖",
    key_prefix="gsk_",
    key_lengths=range(40, 121),
    base_url="https://api.groq.com",
    timeout_s=60,
    cooldown_s=60,
    limit_dimensions=("rpm", "rpd", "tpm", "tpd"),
    names_accounts=True,
    models="openai/gpt-oss-120b",
    notes=MappingProxyType(
        {
            "model": "Groq lists the models that it switches off, with dates, at"
            " <https://console.groq.com/docs/deprecations>.",
            "limits": "`rpm` and `rpd` count requests a minute and a day, `tpm` and `tpd` tokens."
            " Limits count for each model. Groq states its limits of requests a minute and tokens a"
            " day only when it refuses a call, so a value below the real limit is raised only step"
            " by step.",
        }
    ),
)
RESEND: Final = Service(
    name="resend",
    queue="email",
    tasks="tasks.email",
    icon="📧",
    key_prefix="re_",
    key_lengths=range(24, 81),
    base_url="https://api.resend.com",
    base_url_variable="RESEND_API_URL",
    timeout_s=30,
    cooldown_s=300,
    limit_dimensions=("rps", "epd", "epmo"),
    sends_once=True,
    has_senders=True,
    notes=MappingProxyType(
        {"limits": "`rps` counts calls a second, `epd` emails a day, `epmo` emails a month."}
    ),
)

SERVICES: Final[Mapping[str, Service]] = MappingProxyType(
    {service.name: service for service in (GROQ, RESEND)}
)
"""All services by name, in the order in which they are shown."""


def services_of(queue: str) -> tuple[str, ...]:
    """Name the services whose jobs wait in a queue."""
    return tuple(name for name, service in SERVICES.items() if service.queue == queue)
