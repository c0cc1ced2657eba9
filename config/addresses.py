"""Checks of email addresses."""

import re
import unicodedata
from typing import Final

_LONGEST_DOMAIN = 253
_LONGEST_LABEL = 63
_ENDS_RE = re.compile(r"[^-_](?:.*[^-_])?")
_LOCAL_RE = re.compile(r"(?!\.)[^\s@<>(),;:\"\[\]\\]{1,64}(?<!\.)")
_QUOTED_RE = re.compile(r'"(?:[^"\\]|\\.){1,62}"')
_NAMED_RE = re.compile(r"""(?:[^<>]{0,200}|\s*"[^"]{0,200}"\s*)<([^<>]+)>""")
_CONTROL_RE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_JOINER_RE = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
"""Invisible joiners. Persian, the scripts of India and emoji need them; elsewhere they deceive."""
_BETWEEN: Final = frozenset("-_\u00b7\u0375\u05f3\u05f4\u30fb")
"""Other characters of host names than letters: dashes, and the dots and quotes that IDNA lists."""


def is_address(text: str) -> bool:
    """Whether a text is `a@b.c` or `Name <a@b.c>`, with a domain of at least two labels.

    Args:
        text: The text, without surrounding blanks.
    """
    if _CONTROL_RE.search(text):
        return False
    # A display name may contain no-break spaces, emoji and joiners.
    named = _NAMED_RE.fullmatch(text)
    address = _JOINER_RE.sub("", named[1] if named else text)
    local, _, domain = address.rpartition("@")
    labels = domain.split(".")
    return (
        address.strip(" ").isprintable()
        and bool(_LOCAL_RE.fullmatch(local) or _QUOTED_RE.fullmatch(local))
        and len(labels) > 1
        and len(domain) <= _LONGEST_DOMAIN
        and all(map(_is_label, labels))
        and not labels[-1].isdigit()
    )


def _is_label(label: str) -> bool:
    return (
        len(label) <= _LONGEST_LABEL
        and bool(_ENDS_RE.fullmatch(label))
        and all(char in _BETWEEN or _is_letter(char) for char in label)
    )


def _is_letter(char: str) -> bool:
    """Whether a character is a letter, a digit, a mark (such as vowels of Hindi), or an emoji."""
    if char.isascii():
        return char.isalnum()
    return char.isalnum() or unicodedata.category(char) in {"Mn", "Mc", "Me", "So", "Sk"}
