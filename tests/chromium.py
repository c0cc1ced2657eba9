"""The browser of the tests: Debian's Chromium, driven by Playwright."""

import shutil
from importlib.util import find_spec

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find_spec("playwright") is None, reason="playwright is not installed (PyPI: playwright)"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: chromium)"),
]
