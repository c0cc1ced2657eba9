"""Warns of variables that have no effect, and suggests the name that was probably meant."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from config.environment import FILE_SUFFIX
from config.services import SERVICES

_OURS: Final = "KEYWHEEL_"
GONE: Final = {
    "KEYWHEEL_MAX_FAULTS": "is now called KEYWHEEL_MAX_RETRIES",
    "KEYWHEEL_FAULT_BACKOFF_S": "is now called KEYWHEEL_RETRY_BACKOFF_S",
    "KEYWHEEL_FAULT_BACKOFF_MAX_S": "is gone: waits grow up to 60 times KEYWHEEL_RETRY_BACKOFF_S",
    "KEYWHEEL_SERVER_ERROR_COOLDOWN_S": (
        "is gone: after a provider error a key rests for 5 s, or for the service's"
        " KEYWHEEL_…_COOLDOWN_S if that is shorter"
    ),
    "KEYWHEEL_MAX_WAIT_S": "is gone: a job waits up to 5 s in its worker for a key",
    "KEYWHEEL_STATUS_INTERVAL_S": "is gone: workers publish the state of their keys every 30 s",
    "KEYWHEEL_EMAIL_BATCHES": "is gone: emails that wait for the rate limit go out together",
    "KEYWHEEL_DEAD_LETTERS": (
        "is gone: the latest 10,000 dead letters are kept, and KEYWHEEL_DEAD_LETTERS_MB=0 keeps no"
        " arguments"
    ),
    "KEYWHEEL_MAX_DELIVERIES": (
        "is gone: a job becomes a dead letter after 5 worker deaths that count against it"
    ),
    "KEYWHEEL_TASK_SOFT_TIME_LIMIT_S": (
        "is gone: a job is stopped 30 s before KEYWHEEL_TASK_TIME_LIMIT_S, or after half of it if"
        " that is later"
    ),
    "KEYWHEEL_VISIBILITY_TIMEOUT_S": "is gone: it is three times KEYWHEEL_TASK_TIME_LIMIT_S",
    "KEYWHEEL_ETA_TASK_LIMIT": "is gone: it is 10000, or KEYWHEEL_WORKER_CONCURRENCY if more",
    "KEYWHEEL_SYNC_THREADS": "is gone: there are 16 threads for plain def tasks",
    "KEYWHEEL_STREAM_EXPIRES_S": "is gone: a streamed answer is kept for 10 minutes",
    "KEYWHEEL_DEAD_LETTER_KB": (
        "is gone: arguments above 1 MB are not kept, and KEYWHEEL_DEAD_LETTERS_MB=0 keeps none"
    ),
}
"""Settings of earlier versions, each with the rest of the sentence that warns of it."""

_OF_CELERY: Final = ("CELERY_CONFIG_MODULE", "CELERY_LOADER")
"""Variables that Celery reads in other programs, but not here."""

_CUTOFF: Final = 0.86
_SHORT_CUTOFF: Final = 0.75
_OTHERS_CUTOFF: Final = 0.9
_NUMBERS: Final = ("", *(f"_{number}" for number in range(1, 11)))
_OF_OTHERS: Final = {
    "ADMIN_": (),
    "FLOWER_": ("FLOWER_AUTH",),
    "REDIS_": ("REDIS_PASSWORD",),
    "CELERY_": ("CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"),
}
"""Prefixes that other programs use as well, each with names that these programs read."""


@dataclass(frozen=True, slots=True)
class Known:
    """The names that have an effect.

    Attributes:
        settings: The variables of the settings.
        files: The variables of settings whose value may also come from a file.
    """

    settings: frozenset[str]
    files: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """All names, including those with `_FILE`."""
        return self.settings | {name + FILE_SUFFIX for name in self.files}


def names_without_effect(environ: Mapping[str, str], known: Known) -> Iterator[str]:
    """Yield a sentence for each name that looks like a setting but has no effect.

    With our own prefix, this is every unknown name. With any other prefix, it is only a name that
    is almost equal to one of ours.

    Args:
        environ: The merged environment.
        known: The names that have an effect.
    """
    yield from _of_our_prefix(environ, known)
    for name in filter(environ.get, _OF_CELERY):
        yield f"{name} is read by other programs with Celery and has no effect here."
    ours = set(known.all)
    for service in SERVICES.values():
        of_service = set(_names_of_keys(service.prefix, has_senders=service.has_senders))
        ours |= of_service
        names = [name for name in environ if not name.startswith(f"{service.prefix}API_KEY")]
        yield from _misspelt(names, {*known.all, *of_service}, service.prefix, _SHORT_CUTOFF)
    for prefix, of_others in _OF_OTHERS.items():
        yield from _misspelt(environ, {*known.all, *of_others}, prefix, _CUTOFF)
    # A name with a misspelt prefix may belong to another program, unless our name is not set.
    prefixes = (_OURS, *_OF_OTHERS, *(service.prefix for service in SERVICES.values()))
    others = (name for name in environ if not name.startswith(prefixes))
    yield from _misspelt(others, ours - environ.keys(), "", _OTHERS_CUTOFF)


def _of_our_prefix(environ: Mapping[str, str], known: Known) -> Iterator[str]:
    for name in sorted(name for name in environ if name.startswith(_OURS)):
        if name in GONE:
            yield f"{name} {GONE[name]}."
        elif name not in known.all:
            yield _sentence(name, difflib.get_close_matches(name, sorted(known.all), n=1))


def _names_of_keys(prefix: str, *, has_senders: bool) -> Iterator[str]:
    """Yield the names that `config.keys` reads, and the SDK's own variable for its log."""
    yield from (f"{prefix}API_KEY", f"{prefix}LOG")
    for kind in ("ACCOUNT", "FROM") if has_senders else ("ACCOUNT",):
        yield from (f"{prefix}{kind}{number}" for number in _NUMBERS)


def _misspelt(environ: Iterable[str], known: set[str], prefix: str, cutoff: float) -> Iterator[str]:
    for name in sorted(name for name in environ if name.startswith(prefix) and name not in known):
        if nearest := difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff):
            yield _sentence(name, nearest)


def _sentence(name: str, nearest: list[str]) -> str:
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    return f"{name} is not a setting and has no effect{hint}"
