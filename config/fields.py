"""Types of settings, with the checks of their values.

The message of a validator completes "VARIABLE …".
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from config.amqp_url import AmqpUrl, is_amqp
from config.notify_hosts import notify_hosts
from config.redis_url import RedisUrl as ParsedUrl
from config.redis_url import with_one_host
from config.urls import SecretUrl, checked_url

RESULT_BACKEND_CLASS: Final = "worker.aio.backend:RedisBackend"
"""The result backend for Celery's loader. It precedes the URL, with a plus between them."""

_CELERY_SCHEMES = ("redis", "rediss", "sentinel", "redis+socket")
_SHORTEST_TOKEN = 16
_SHORTEST_SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a setting, or its kind of text, for the documentation."""

    name: str


def _redis_url(*schemes: str) -> AfterValidator:
    def check(url: SecretUrl) -> SecretUrl:
        return _check_redis_url(url.get_secret_value().strip(), schemes=schemes)

    return AfterValidator(check)


def _check_redis_url(plain: str, *, schemes: tuple[str, ...]) -> SecretUrl:
    # `claim_result_backend` may have added our class before the URL.
    if plain.startswith(f"{RESULT_BACKEND_CLASS}+"):
        plain = _as_it_was_given(plain.removeprefix(f"{RESULT_BACKEND_CLASS}+"))
    ParsedUrl.read(plain, schemes=schemes)
    # Keep one host: a second one may repeat the password, which would then be shown.
    return SecretUrl(with_one_host(plain))


def _broker_url(url: SecretUrl) -> SecretUrl:
    plain = url.get_secret_value().strip()
    if not is_amqp(plain):
        return _check_redis_url(plain, schemes=(*_CELERY_SCHEMES, "amqp", "amqps"))
    AmqpUrl.read(plain)
    return SecretUrl(plain)


def _as_it_was_given(url: str) -> str:
    # Celery's result backend uses other names for a Unix socket and its database.
    return f"redis+{url}".replace("virtual_host=", "db=") if url.startswith("socket://") else url


def _base_url(url: str) -> str:
    url = url.strip().rstrip("/")
    parts = checked_url(url, schemes=("https", "http"))
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("must be a plain address without user, query or fragment")
    # Other OpenAI-compatible clients need this path in the address; Groq's client adds it itself.
    return url.removesuffix("/openai/v1")


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes or underscores")
    return text


def _one_word(text: str) -> str:
    if not text or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("must be one word without blanks")
    return text


def _credentials(secret: SecretStr | None) -> SecretStr | None:
    pairs = [pair.partition(":") for pair in secret.get_secret_value().split(",")] if secret else []
    if not all(user.strip() and password.strip() for user, _, password in pairs):
        raise ValueError("must be user:password, several of them separated by commas")
    return secret


def word_list(text: str) -> str:
    """Check words that are separated by commas, and remove repetitions.

    Raises:
        ValueError: One of them is not a word.
    """
    words = [word.strip() for word in text.split(",")] if "," in text else [text]
    return ",".join(dict.fromkeys(_one_word(word) for word in words if word or len(words) == 1))


def _names(text: str) -> str:
    """Check names that are separated by commas, and remove repetitions."""
    names = [name.strip() for name in text.split(",")]
    if text and not all(name and name.isprintable() for name in names):
        raise ValueError("must be names, separated by commas")
    return ",".join(dict.fromkeys(names))


def _token(secret: SecretStr | None) -> SecretStr | None:
    if secret and len(secret.get_secret_value()) < _SHORTEST_TOKEN:
        raise ValueError(f"must have {_SHORTEST_TOKEN} random characters or more")
    return secret


def _modules(text: str) -> str:
    """Check the names of Python modules that are separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError("must name Python modules, such as myapp.jobs, separated by commas")
    return ",".join(dict.fromkeys(names))


def _webhook_secrets(secret: SecretStr | None) -> SecretStr | None:
    for text in webhook_secrets(secret):
        try:
            found = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:
            found = b""
        if not text.startswith("whsec_") or len(found) < _SHORTEST_SECRET_BYTES:
            raise ValueError(
                f"must be whsec_ and at least {_SHORTEST_SECRET_BYTES} random bytes in Base64, or "
                "several such secrets separated by commas"
            )
    return secret


def webhook_secrets(secret: SecretStr | None) -> tuple[str, ...]:
    """Split a setting into its secrets, which are separated by commas."""
    parts = secret.get_secret_value().split(",") if secret else ()
    return tuple(part.strip() for part in parts if part.strip())


def _hosts(text: str) -> str:
    notify_hosts(text)
    return text


def limits_from(value: Any, *, known: Sequence[str]) -> Any:
    """Read limits such as `rpm=30,tpm=6000`. A value that is not a text is returned unchanged.

    Args:
        value: The setting.
        known: The names of the allowed limits.

    Raises:
        ValueError: The text is not a list of such limits.
    """
    if not isinstance(value, str):
        return value
    form = re.compile(rf"({'|'.join(known)})\s*=\s*(0*[1-9][0-9]{{0,11}})")
    parts = [part.strip() for part in value.lower().split(",") if part.strip()]
    limits = {match[1]: int(match[2]) for match in map(form.fullmatch, parts) if match}
    if len(limits) < len(parts):
        names = ", ".join(known)
        raise ValueError(f"must be limits such as {known[0]}=30, of {names}, separated by commas")
    return tuple(limits.items())


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


RedisUrl = Annotated[SecretUrl, _redis_url("redis", "rediss", "sentinel"), Unit("URL")]
BrokerUrl = Annotated[SecretUrl, AfterValidator(_broker_url), Unit("URL")]
ResultsUrl = Annotated[SecretUrl, _redis_url(*_CELERY_SCHEMES), Unit("URL")]
PoolUrl = Annotated[SecretUrl, _redis_url("redis", "rediss", "sentinel", "unix"), Unit("URL")]
BaseUrl = Annotated[str, AfterValidator(_base_url), Unit("URL")]
Modules = Annotated[str, AfterValidator(_modules), Unit("modules")]
Names = Annotated[str, AfterValidator(_names), Unit("names")]
Word = Annotated[str, AfterValidator(_one_word)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False), Unit("seconds")]
SecondsOrNone = Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False), Unit("seconds")]
WholeSeconds = Annotated[int, Field(gt=0, le=30 * 86_400), Unit("seconds")]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower)]
Namespace = Annotated[str, AfterValidator(_namespace), Unit("text")]
Token = Annotated[SecretStr | None, AfterValidator(_token), Unit("text")]
Credentials = Annotated[SecretStr | None, AfterValidator(_credentials), Unit("`user:password`")]
Limits = Annotated[tuple[tuple[str, int], ...], Unit("limits")]
Hosts = Annotated[str, AfterValidator(_hosts), Unit("hosts")]
WebhookSecrets = Annotated[SecretStr | None, AfterValidator(_webhook_secrets), Unit("`whsec_…`")]
