"""The Python snippets of docs/enqueueing.md and its pages, run in order as one program."""

import subprocess
import sys

from tests.fleets import Stack
from tests.pages import ROOT, blocks
from tests.processes import environment

PAGES = ("enqueueing", "arguments", "priority", "results", "notifications", "managing-jobs")
ON_THE_PAGE = "redis://127.0.0.1:6379/0"


def test_the_snippets_for_python_run(fresh: Stack) -> None:
    snippets = [block for name in PAGES for block in blocks(ROOT / f"docs/{name}.md", "python")]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(snippets).replace(ON_THE_PAGE, fresh.redis_url)],
        cwd=fresh.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    hello, wrong = result.stdout.splitlines()
    assert hello.startswith("Sandbox ")
    assert wrong.startswith("InvalidArguments to.0: is not an email address")
