"""Checks the files that the variables of OpenSSL and Python's `ssl` name; each call needs them."""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

_HASHED_NAME: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""The form of the names by which OpenSSL finds certificates in a folder."""


def certificate_problems(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that leaves OpenSSL without certificates.

    Args:
        environ: The environment.
    """
    if file := environ.get("SSL_CERT_FILE"):
        yield from _problems_of_file(file)
    if names := environ.get("SSL_CERT_DIR"):
        yield from _problems_of_folders(names.split(os.pathsep))


def key_log_problem(environ: Mapping[str, str]) -> str | None:
    """Report that the file for the keys of TLS connections cannot be written; None if it can.

    Args:
        environ: The environment.
    """
    if not (file := environ.get("SSLKEYLOGFILE")):
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = file
    except OSError as exc:
        words = exc.strerror or exc
        return (
            f"SSLKEYLOGFILE names a file that cannot be written ({words}): correct it, or unset it."
        )
    return None


def _problems_of_file(file: str) -> Iterator[str]:
    try:
        ssl.create_default_context(cafile=file)
    except FileNotFoundError:
        yield "SSL_CERT_FILE names a file that does not exist, so no certificate could be checked."
    except OSError as exc:  # also an SSLError
        words = getattr(exc, "reason", None) or exc.strerror
        yield f"SSL_CERT_FILE names a file without usable certificates ({words})."


def _problems_of_folders(folders: list[str]) -> Iterator[str]:
    names, why = list[str](), "does not exist"
    for folder in folders:
        try:
            names += os.listdir(folder)  # noqa: PTH208 - the names are enough
            why = ""
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            if os.access(folder, os.X_OK, effective_ids=True):
                return  # OpenSSL opens the files by name, without listing the folder
            why = why and f"cannot be read ({exc.strerror})"
    if why:
        yield f"SSL_CERT_DIR names a folder that {why}, so no certificate could be checked."
    elif not any(map(_HASHED_NAME.fullmatch, names)):
        yield (
            "SSL_CERT_DIR names a folder without the hashed names that OpenSSL looks for: run "
            "`openssl rehash` on it, or name a file in SSL_CERT_FILE."
        )
