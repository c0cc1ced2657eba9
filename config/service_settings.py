"""Defines the settings that each service has, with the defaults of its `Service`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from config.fields import BaseUrl, Limits, Seconds, Unit, limits_from, word_list
from config.services import SERVICES, Service

_PREFIX: Final = "KEYWHEEL_"
_SERVER_ERROR_COOLDOWN_S: Final = 5.0


class ServiceSettings(BaseModel):
    """The checked, frozen settings of one service.

    The text below a field is its text in `docs/settings.md` and `.env.example`, once for each
    service. In it, `{title}` is the service's name.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    name: str
    base_url: BaseUrl
    """The address of {title}'s API."""
    model: Annotated[str, Unit("models")]
    """The model of jobs that name none, or several models in order of preference, separated by
    commas: a job takes the first one that a key can serve now."""
    timeout_s: Seconds
    """Read timeout for {title}; a complete call may take up to twice as long."""
    cooldown_s: Seconds
    """How long a limited key of {title} rests if {title} names no time. After a provider error
    (5xx), a key rests for 5 s, or for this time if it is shorter."""
    limits: Limits = ()
    """Limits of each account at {title}, separated by commas, such as `{example}`. They are used
    until the real limits are learned. The names are {dimensions}; each is optional."""

    @model_validator(mode="before")
    @classmethod
    def _take_defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        service = SERVICES[given["name"]]
        defaults = {
            "base_url": service.base_url,
            "model": service.models,
            "timeout_s": service.timeout_s,
            "cooldown_s": service.cooldown_s,
        }
        return defaults | given

    @field_validator("model")
    @classmethod
    def _check_model(cls, text: str, info: ValidationInfo) -> str:
        return word_list(text) if text or SERVICES[info.data["name"]].models else text

    @field_validator("limits", mode="before")
    @classmethod
    def _check_limits(cls, value: Any, info: ValidationInfo) -> Any:
        return limits_from(value, known=SERVICES[info.data["name"]].limit_dimensions)

    @property
    def server_error_cooldown_s(self) -> float:
        """How long a key rests after a provider error, in seconds."""
        return min(_SERVER_ERROR_COOLDOWN_S, self.cooldown_s)

    @property
    def models(self) -> tuple[str, ...]:
        """The models of jobs that name none, in order of preference; empty without models."""
        return tuple(self.model.split(",")) if self.model else ()


def settings_of_each(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Add the name of each service to its settings, and empty settings for missing services.

    Args:
        given: By service, the settings that differ from the defaults.

    Raises:
        ValueError: A service is unknown.
    """
    if unknown := set(given).difference(SERVICES):
        raise ValueError(f"there is no service {', '.join(sorted(unknown))}")
    return {name: {"name": name, **dict(given.get(name, {}))} for name in SERVICES}


def variables_of(service: Service) -> dict[str, str]:
    """Name the environment variable of each setting that a service has, by field."""
    name = service.name.upper()
    variables = {
        "base_url": service.base_url_variable or f"{name}_BASE_URL",
        "model": f"{name}_MODEL",
        "timeout_s": f"{_PREFIX}{name}_TIMEOUT_S",
        "cooldown_s": f"{_PREFIX}{name}_COOLDOWN_S",
        "limits": f"{_PREFIX}{name}_LIMITS",
    }
    if not service.models:
        del variables["model"]
    return variables
