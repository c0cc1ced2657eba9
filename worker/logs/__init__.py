"""Writes each log record as one line, in text or JSON, without secrets."""

from worker.logs.formatters import JsonFormatter, TextFormatter
from worker.logs.key_lines import log_key_failed, log_key_used, log_keys_reset
from worker.logs.redaction import Redactor, redactor
from worker.logs.setup import say_json, setup_logging

__all__ = [
    "JsonFormatter",
    "Redactor",
    "TextFormatter",
    "log_key_failed",
    "log_key_used",
    "log_keys_reset",
    "redactor",
    "say_json",
    "setup_logging",
]
