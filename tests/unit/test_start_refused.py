"""The start ends with a message about settings with which every job would fail."""

from types import SimpleNamespace
from typing import Any

import pytest

from config.errors import SettingsError
from tests.unit.sample_keys import GROQ, RESEND
from worker import application
from worker.hooks.queues import QueueChoice

USABLE = {
    "GROQ_API_KEY": GROQ,
    "RESEND_API_KEY": RESEND,
    "GROQ_BASE_URL": "https://api.groq.com",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}


@pytest.fixture(autouse=True)
def _usable(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in USABLE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def instance() -> Any:
    """A worker that is about to connect."""
    return SimpleNamespace(queue_choice=QueueChoice(None), max_concurrency=None, concurrency=10)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (  # emails without a from address would fail
            "RESEND_FROM",
            "News news@example",
            "RESEND_FROM is not a from address: write name@example.com or Name <name@example.com>.",
        ),
        # No call could be made.
        ("HTTPS_PROXY", "ftp://x", "HTTPS_PROXY names a ftp:// proxy"),
        ("ALL_PROXY", "socks5://u:canary@x:1", "ALL_PROXY names a socks5:// proxy"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE names a file that does not exist"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE names a file without usable certificates"),
    ],
)
def test_settings_with_which_each_job_or_call_would_fail_end_the_start(
    instance: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        application._check_and_choose_queues(instance)
    assert str(ended.value).startswith(f"keywheel cannot start.\n{sentence}")
    assert "canary" not in str(ended.value)


def test_times_that_do_not_fit_each_other_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYWHEEL_GROQ_TIMEOUT_S", "270")
    with pytest.raises(SettingsError, match=r"^KEYWHEEL_GROQ_TIMEOUT_S \(270\) must stay below"):
        application.create_app()


def test_a_missing_module_of_tasks_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYWHEEL_TASKS", "nowhere.jobs")
    with pytest.raises(SystemExit, match=r"names nowhere\.jobs, which cannot be found: start the"):
        application._import_task_modules()


def test_a_log_file_that_cannot_be_opened_ends_the_start() -> None:
    with pytest.raises(SystemExit) as ended:
        application._set_up_logging(logfile="none/worker")
    assert str(ended.value) == (
        "keywheel cannot start.\nThe file of --logfile cannot be opened: No such file or directory."
    )
