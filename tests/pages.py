"""The content of the README and of the pages of the docs."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
OF_PACKAGES = sorted((ROOT / "clients").glob("*/README.md"))
OF_BENCHMARKS = [*sorted((ROOT / "benchmarks").glob("*.md")), ROOT / "benchmarks/drills/README.md"]
ALL_PAGES = [
    *PAGES,
    *EXAMPLES,
    *OF_PACKAGES,
    *OF_BENCHMARKS,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
]

FENCE_RE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE_RE = re.compile(r"`([^`\n]+)`")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, without the indentation of a list around them."""
    bodies = [body for name, body in FENCE_RE.findall(text_of(page)) if name == language]
    return [textwrap.dedent(body) for body in bodies]


def prose(page: Path) -> str:
    return FENCE_RE.sub("", text_of(page))
