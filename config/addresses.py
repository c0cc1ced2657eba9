"""Telling a mail address from something else."""

import re

_LONGEST_DOMAIN = 253
_LABEL_RE = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?")
_LOCAL_RE = re.compile(r"[^\s@<>(),;:\"\[\]\\]{1,64}")
_NAMED_RE = re.compile(r"[^<>]{0,200}<([^<>]+)>")


def is_address(text: str) -> bool:
    """Tell whether a text is `a@b.c` or `Name <a@b.c>`, with a domain of at least two labels.

    Args:
        text: The text, without surrounding blanks.
    """
    if not text.isprintable():
        return False
    named = _NAMED_RE.fullmatch(text)
    local, _, domain = (named[1] if named else text).rpartition("@")
    labels = domain.split(".")
    return (
        bool(_LOCAL_RE.fullmatch(local))
        and not local.startswith(".")
        and not local.endswith(".")
        and len(labels) > 1
        and len(domain) <= _LONGEST_DOMAIN
        and all(_LABEL_RE.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )
