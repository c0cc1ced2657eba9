"""Which class calls which service: the one place where services and providers meet.

To add a service, give it an entry in `BUILDERS`; `config.services` says what else it needs.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from pydantic import SecretStr

from config.settings import Settings
from worker.providers import Groq, Provider, Resend
from worker.providers.key_check import Checker
from worker.providers.unknowns import Notice, ignore


class Client(Provider[Any], Checker, Protocol):
    """What calls a service: a provider that can also check keys."""

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Make what the first call with each key would have to make. May do nothing."""
        ...


class Builder(Protocol):
    """Makes the client of a service, and connects to nothing yet: mostly the provider's class."""

    def __call__(
        self,
        base_url: str,
        /,
        *,
        timeout_s: float,
        notice: Notice = ...,
    ) -> Client:
        """Make one.

        Args:
            base_url: Where the service's API is.
            timeout_s: The longest silence while waiting for an answer, in seconds. The whole call
                may take twice as long.
            notice: Takes what the answers hold that nobody knows.
        """
        ...


BUILDERS: Final[Mapping[str, Builder]] = MappingProxyType({"groq": Groq, "resend": Resend})
"""By service, the class that calls it.

A service that sends once (`Service.sends_once`) gets the email path around it, so its class takes
the requests that `Resend` takes; any other may have requests of its own, which its tasks make.
"""


def client_of(
    service: str, settings: Settings, *, timeout_s: float | None = None, notice: Notice = ignore
) -> Client:
    """Make the client of a service, as the settings describe it.

    Args:
        service: The service's name.
        settings: Where the service is, and how long a call may take.
        timeout_s: The longest silence, in seconds, instead of the settings'.
        notice: Takes what the answers hold that nobody knows.
    """
    configured = settings.services[service]
    return BUILDERS[service](
        configured.base_url,
        timeout_s=configured.timeout_s if timeout_s is None else timeout_s,
        notice=notice,
    )
