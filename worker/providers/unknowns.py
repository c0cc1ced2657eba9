"""What a provider answers that the tables do not know: the first sign that it has changed.

Each is kept as a shape: what stays the same from answer to answer, without keys, prompts, addresses
or numbers.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pydantic import SecretStr

from worker.providers.response import Answer, safe_sentence

_MAX_SHAPE = 200
_NAME = re.compile(r"[A-Za-z0-9_.:/ -]{1,80}")
_KEY_LIKE = re.compile(r"(?i)(?:gsk|re|bearer)[_ ]")
_MASKS = (
    (re.compile(r"`[^`]*`"), "`…`"),
    (re.compile(r'"[^"]*"'), '"…"'),
    (re.compile(r"\S+@\S+"), "…@…"),
    (re.compile(r"\borg_\w+"), "org_…"),
    (re.compile(r"\b(?=\w*[0-9])[\w-]{12,}\b"), "…"),  # ids
    (re.compile(r"[0-9][0-9.,:]*"), "N"),
)
_SHORTEST_PRIVATE = 6


class Kind(StrEnum):
    """What of an answer is unknown."""

    ERROR_CODE = "error_code"
    STATUS = "status"
    LIMIT_NAME = "limit_name"
    HEADER = "header"
    REFUSAL = "refusal"
    """The words of a refusal for a limit, of which the limit cannot be read."""
    MESSAGE_FIELD = "message_field"
    FINISH_REASON = "finish_reason"
    MODEL = "model"
    """A model all of whose calls fail alike."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something unknown in an answer.

    Attributes:
        service: The service's name.
        kind: What it is.
        shape: What it looks like, fit for everybody's eyes.
    """

    service: str
    kind: Kind
    shape: str


Notice = Callable[[Unknown], None]
"""Takes what is unknown. Returns at once and raises nothing."""


def ignore(_: Unknown) -> None:
    """Take no notice."""


class Shapes:
    """Makes shapes of what one answer holds.

    Args:
        secret: The key that was used.
        private: Texts of the request.
    """

    def __init__(self, secret: SecretStr, private: Iterable[str]) -> None:
        self._secret = secret.get_secret_value()
        self._given = private
        self._listed: list[str] | None = None

    @property
    def _private(self) -> list[str]:
        # Hardly any answer holds something unknown, so the texts are looked for when one does.
        if self._listed is None:
            self._listed = list(self._given)
        return self._listed

    def of_name(self, name: object, *, numbered: bool = False) -> str:
        """The shape of a name such as an error's code.

        What may be something else than a name is not shown.

        Args:
            name: The name.
            numbered: Its numbers belong to it, as in the name of a model.
        """
        text = str(name).strip()
        if _NAME.fullmatch(text) is None or self._secret in text or _KEY_LIKE.search(text):
            return "(no name)"
        if len(text) >= _SHORTEST_PRIVATE and any(text in part for part in self._private):
            return "(a word of the request)"
        return text if numbered else _masked(text)

    def of_sentence(self, sentence: str) -> str:
        """The shape of a sentence."""
        return _masked(safe_sentence(sentence, secret=self._secret, private=self._private))[
            :_MAX_SHAPE
        ]


def unknown_headers(
    answer: Answer,
    service: str,
    *,
    beginnings: tuple[str, ...],
    known: Container[str],
    shapes: Shapes,
) -> Iterator[Unknown]:
    """Find the headers of a provider's own kinds that nobody knows.

    Args:
        answer: What came back.
        service: The service's name.
        beginnings: How the headers of these kinds begin, in small letters.
        known: Those that are read or do not matter.
        shapes: Makes what is kept of them.
    """
    for name in map(str.lower, answer.headers):
        if name.startswith(beginnings) and name not in known:
            yield Unknown(service, Kind.HEADER, shapes.of_name(name))


def _masked(text: str) -> str:
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text
