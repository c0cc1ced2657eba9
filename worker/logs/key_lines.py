"""Writes the log lines about keys. Each of these lines is defined only here."""

import logging

from config.services import SERVICES

_log = logging.getLogger("worker.keys")


def log_key_used(label: str, *, service: str, attempt: int, attempts: int) -> None:
    """Log `🤖 Using Groq key: gsk_abc123... (attempt 1/3)`.

    Args:
        label: The key's label.
        service: The service's name.
        attempt: Which attempt of the rotation this is, from 1.
        attempts: The most attempts of the rotation: one for each key.
    """
    _log.info(
        "%s Using %s key: %s (attempt %d/%d)",
        SERVICES[service].icon,
        SERVICES[service].title,
        label,
        attempt,
        attempts,
    )


def log_key_failed(label: str, *, failed: int, total: int) -> None:
    """Log `🚨 API key marked as failed: gsk_abc123... (1/3 failed)`.

    Args:
        label: The key's label.
        failed: How many keys of the service do not serve now, this one included.
        total: How many keys the service has.
    """
    _log.warning("🚨 API key marked as failed: %s (%d/%d failed)", label, failed, total)


def log_keys_reset(service: str) -> None:
    """Log `🔄 Groq failed keys reset`.

    Args:
        service: The service's name.
    """
    _log.info("🔄 %s failed keys reset", SERVICES[service].title)
