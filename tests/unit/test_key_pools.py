"""The log lines about keys when they are read."""

import logging

import pytest

from config.keys import discover_keys
from tests.unit.sample_keys import GROQ
from worker import key_pools
from worker.logs import Redactor


def test_the_logs_hide_each_key_from_the_moment_it_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    redactor = Redactor()
    monkeypatch.setattr(key_pools, "redactor", redactor)
    odd = "no-such-form-" + GROQ[4:]  # the redactor hides texts in the usual format anyway
    discovery = discover_keys("groq", {"GROQ_API_KEY": odd, "GROQ_API_KEY_2": odd})
    with caplog.at_level(logging.WARNING):
        key_pools.announce(discovery)
    assert odd[10:] not in redactor.redact(f"Bearer {odd}")
    assert caplog.messages == [problem.sentence for problem in discovery.problems]
    assert caplog.messages, "configuring the same key twice is reported"
