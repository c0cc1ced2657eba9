"""Describes the parts of an answer that the tables do not know: the first sign of a changed API.

Each part is kept as a shape: the text that stays the same from answer to answer, without keys,
prompts, addresses or numbers.
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
    """Which part of an answer is unknown."""

    ERROR_CODE = "error_code"
    STATUS = "status"
    LIMIT_NAME = "limit_name"
    HEADER = "header"
    REFUSAL = "refusal"
    """The message of a refusal for a limit, if the limit cannot be read from it."""
    MESSAGE_FIELD = "message_field"
    FINISH_REASON = "finish_reason"
    MODEL = "model"
    """A model whose calls all fail with the same code."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An unknown part of an answer.

    Attributes:
        service: The service's name.
        kind: The kind of part.
        shape: The part with its varying pieces masked; safe to show.
    """

    service: str
    kind: Kind
    shape: str


Notice = Callable[[Unknown], None]
"""Is called with an unknown part of an answer. Returns at once and raises nothing."""


def ignore(_: Unknown) -> None:
    """Do nothing."""


class Shapes:
    """Makes the shapes of parts of one answer.

    Args:
        secret: The key that was used.
        private: Texts of the request, which no shape may show.
    """

    def __init__(self, secret: SecretStr, private: Iterable[str]) -> None:
        self._secret = secret.get_secret_value()
        self._given = private
        self._listed: list[str] | None = None

    @property
    def _private(self) -> list[str]:
        # Few answers have an unknown part, so the texts are only collected for those answers.
        if self._listed is None:
            self._listed = list(self._given)
        return self._listed

    def of_name(self, name: object, *, numbered: bool = False) -> str:
        """Make the shape of a name, such as an error's code.

        A value that may not be a name is not shown.

        Args:
            name: The name.
            numbered: Keep the numbers of the name, such as those of a model's name.
        """
        text = str(name).strip()
        if _NAME.fullmatch(text) is None or self._secret in text or _KEY_LIKE.search(text):
            return "(no name)"
        if len(text) >= _SHORTEST_PRIVATE and any(text in part for part in self._private):
            return "(a word of the request)"
        return text if numbered else _masked(text)

    def of_sentence(self, sentence: str) -> str:
        """Make the shape of a sentence."""
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
    """Find the unknown headers among those with one of the provider's own prefixes.

    Args:
        answer: The provider's answer.
        service: The service's name.
        beginnings: The prefixes, in lower case.
        known: The headers that are read or do not matter.
        shapes: Makes the shapes of the unknown headers.
    """
    for name in map(str.lower, answer.headers):
        if name.startswith(beginnings) and name not in known:
            yield Unknown(service, Kind.HEADER, shapes.of_name(name))


def _masked(text: str) -> str:
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text
