"""Flower's own configuration file, read by `celery -A worker flower` from the working directory."""

from config.settings import get_settings
from worker.dashboard import install

_settings = get_settings()

address = _settings.flower_address
port = _settings.flower_port
if _settings.flower_basic_auth is not None:
    basic_auth = [pair.strip() for pair in _settings.flower_basic_auth.get_secret_value().split(",")]
max_tasks = 10_000

install()
