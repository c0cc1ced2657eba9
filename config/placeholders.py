"""Recognises placeholders that a person forgot to replace by a secret."""

import re

from config.services import SERVICES

_PREFIXES = {"sk", *(service.key_prefix.strip("_-") for service in SERVICES.values())} - {""}
_WORDS = frozenset(
    [
        "your",
        "yours",
        "my",
        "a",
        "an",
        "the",
        "api",
        "apikey",
        "key",
        "keys",
        "token",
        "secret",
        "here",
        "goes",
        "value",
        "insert",
        "enter",
        "paste",
        "put",
        "add",
        "replace",
        "replaceme",
        "change",
        "changeme",
        "me",
        "this",
        "with",
        "it",
        "example",
        "sample",
        "demo",
        "dummy",
        "fake",
        "placeholder",
        "todo",
        "tbd",
        "fixme",
        "none",
        "null",
        "nil",
        "undefined",
        "empty",
        "false",
        "true",
        "test",
        "xxx",
        *SERVICES,
        *_PREFIXES,
    ]
)
_OPENINGS = (
    "your",
    "changeme",
    "change_me",
    "change-me",
    "replace",
    "placeholder",
    "example",
    "insert",
    "<",
    "${",
    "{{",
)
_KEY_PREFIX_RE = re.compile(rf"^(?:{'|'.join(sorted(_PREFIXES))})[_-]", re.IGNORECASE)
_SPLIT_RE = re.compile(r"[\W_]+")


def looks_like_placeholder(text: str) -> bool:
    """Whether a text is a placeholder, such as `your-key-here`, `xxx`, `<key>` or `gsk_abc123...`.

    Only whole words and the beginning of the text are compared, so that a real key is hardly ever
    mistaken for a placeholder. About one random key in a million starts with four given letters.

    Args:
        text: The value, without surrounding blanks.
    """
    lowered = _KEY_PREFIX_RE.sub("", text).lower()
    if lowered.startswith(_OPENINGS) or any(mark in lowered for mark in ("...", "…", "**")):
        return True
    if len(set(lowered)) <= 1:  # one character repeated, or nothing after the prefix
        return True
    words = [word for word in _SPLIT_RE.split(lowered) if word]
    return all(word in _WORDS or len(set(word)) == 1 for word in words)
