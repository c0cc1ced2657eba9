"""Maps each service to the class that calls it; no other module does so.

To add a service, give it an entry in `BUILDERS`; `config.services` lists the other steps.
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
    """A provider that can also check keys."""

    def prepare(self, secrets: Iterable[SecretStr]) -> None:
        """Make the objects that the first call with each key needs. May do nothing."""
        ...


class Builder(Protocol):
    """Makes the client of a service without connecting; usually it is the provider's class."""

    def __call__(
        self,
        base_url: str,
        /,
        *,
        timeout_s: float,
        notice: Notice = ...,
    ) -> Client:
        """Make the client.

        Args:
            base_url: The base URL of the service's API.
            timeout_s: The read timeout, in seconds. The whole call may take twice as long.
            notice: Is called with the unknown parts of answers.
        """
        ...


BUILDERS: Final[Mapping[str, Builder]] = MappingProxyType({"groq": Groq, "resend": Resend})
"""The class that calls each service.

A service that sends once (`Service.sends_once`) is called through the email path, so its class
takes the same requests as `Resend`. Any other service may have its own kind of request, which its
tasks make.
"""


def client_of(
    service: str, settings: Settings, *, timeout_s: float | None = None, notice: Notice = ignore
) -> Client:
    """Make the client of a service, as the settings describe it.

    Args:
        service: The service's name.
        settings: The settings, with the base URL and the timeout of the service.
        timeout_s: The read timeout in seconds, if not that of the settings.
        notice: Is called with the unknown parts of answers.
    """
    configured = settings.services[service]
    return BUILDERS[service](
        configured.base_url,
        timeout_s=configured.timeout_s if timeout_s is None else timeout_s,
        notice=notice,
    )
