"""Hides secrets: known ones, texts that look like a key, and passwords in URLs.

It also hides answers of a provider, which SDKs quote in their errors.
"""

import json
import re
from collections.abc import Iterable
from typing import Final

from pydantic import SecretStr

from config.api_key import ApiKey, masked_key
from config.services import SERVICES
from config.urls import masked_url, passwords_in

_MAX_SHORT_PREFIX = 3


def _key_shapes(prefix: str) -> str:
    """Return a pattern of texts that look like a key with this prefix.

    Many words contain a short prefix, such as `re_` in `core_settings_module`. So within a word, a
    short prefix matches only if a digit follows, because keys have digits.
    """
    start = re.escape(prefix)
    if len(prefix) > _MAX_SHORT_PREFIX:
        return f"{start}[A-Za-z0-9]{{20,}}"
    return (
        f"(?<![A-Za-z0-9_]){start}[A-Za-z0-9_]{{16,}}|{start}(?=[A-Za-z_]*[0-9])[A-Za-z0-9_]{{16,}}"
    )


_KEY_SHAPE_RE = re.compile(
    "|".join(_key_shapes(service.key_prefix) for service in SERVICES.values() if service.key_prefix)
)
_ANSWER_RE = re.compile(r"(?<=Error code: [0-9]{3} - ).+")
"""The answer in an error of Groq's or OpenAI's SDK: it may quote prompts and a model's output."""
_CODE_RE = re.compile(r"""["']code["']: ["']([A-Za-z_]{1,60})["']""")
_HIDDEN = "***"
_MIN_SECRET = 6


class Redactor:
    """Replaces known secrets, texts that look like a key, and passwords in URLs.

    It never forgets a secret that it has learned.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._known_re: re.Pattern[str] | None = None

    def learn(self, secrets: Iterable[ApiKey | SecretStr | str]) -> None:
        """Hide further secrets from now on.

        Args:
            secrets: The secrets. Keys are replaced by their label, other secrets by `***`. Of a
                URL, only the password is hidden. A secret of less than six characters is ignored,
                because hiding each occurrence of such a short text would spoil the log and reveal
                the secret.
        """
        for item in secrets:
            if isinstance(item, ApiKey):
                self._remember(item.secret.get_secret_value(), item.label)
                continue
            value = item if isinstance(item, str) else item.get_secret_value()
            # Only the password of a URL is secret: "cannot connect to ***" would not help anyone.
            for secret in passwords_in(value) if "://" in value else (value,):
                self._remember(
                    secret, masked_key(secret) if _KEY_SHAPE_RE.fullmatch(secret) else _HIDDEN
                )
        if self._labels:
            longest_first = sorted(self._labels, key=len, reverse=True)
            self._known_re = re.compile("|".join(map(re.escape, longest_first)))

    def _remember(self, secret: str, label: str) -> None:
        if len(secret) >= _MIN_SECRET:
            # repr and JSON escape some characters.
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                self._labels.setdefault(form, label)

    def redact(self, text: str) -> str:
        """Return the text without secrets; the same object if it contains none."""
        if self._known_re is not None:
            text = self._known_re.sub(lambda match: self._labels[match[0]], text)
        if "gsk_" in text or "re_" in text:
            text = _KEY_SHAPE_RE.sub(lambda match: masked_key(match[0]), text)
        if "Error code: " in text:
            text = _ANSWER_RE.sub(_code_in, text)
        return masked_url(text)


def _code_in(answer: re.Match[str]) -> str:
    """Return the part of an answer that may be shown: the provider's name for the error."""
    code = _CODE_RE.search(answer[0])
    return f"{code[1]} (the answer is not shown)" if code else "(the answer is not shown)"


redactor: Final = Redactor()
"""The redactor of this process."""
