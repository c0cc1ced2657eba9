"""Checks of email addresses."""

import re

_LONGEST_DOMAIN = 253
_LABEL_RE = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?")
_LOCAL_RE = re.compile(r"(?!\.)[^\s@<>(),;:\"\[\]\\]{1,64}(?<!\.)")
_NAMED_RE = re.compile(r"""(?:[^<>]{0,200}|\s*"[^"]{0,200}"\s*)<([^<>]+)>""")
_CONTROL_RE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_address(text: str) -> bool:
    """Whether a text is `a@b.c` or `Name <a@b.c>`, with a domain of at least two labels.

    Args:
        text: The text, without surrounding blanks.
    """
    if _CONTROL_RE.search(text):
        return False
    # A display name may hold no-break spaces, emoji and joiners.
    named = _NAMED_RE.fullmatch(text)
    address = named[1] if named else text
    local, _, domain = address.rpartition("@")
    labels = domain.split(".")
    return (
        address.strip(" ").isprintable()
        and bool(_LOCAL_RE.fullmatch(local))
        and len(labels) > 1
        and len(domain) <= _LONGEST_DOMAIN
        and all(_LABEL_RE.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )
