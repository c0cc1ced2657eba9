"""Tests of the clients of both providers, over real HTTP."""

import pytest

pytest.register_assert_rewrite("tests.integration.providers.verdict_tables")
