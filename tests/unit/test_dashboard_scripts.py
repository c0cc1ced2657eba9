"""Rules for the scripts of the pages, as far as a test without a browser can check them."""

from collections import Counter
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "worker" / "dashboard" / "static"
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(STATIC.glob("*.js"))}


@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - {"plot.js", "dialog.js"}))
def test_nothing_takes_the_focus_from_the_person_who_uses_a_page(name: str) -> None:
    text = SCRIPTS[name]
    assert "replaceChildren.apply(" not in text, (
        "showEntries() keeps the elements of entries that stay"
    )
    assert ".disabled = true" not in text, "whileBusy() leaves the focus on a button"


def test_countdowns_follow_the_servers_clock() -> None:
    calls = Counter({name: text.count("Date.now()") for name, text in SCRIPTS.items()})
    assert +calls == {"job.js": 2}, "one call in now_ms(), one for the difference that it adds"
