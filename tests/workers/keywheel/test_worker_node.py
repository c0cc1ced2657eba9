"""The Node snippets in docs/enqueueing.md and docs/managing-jobs.md, run.

A job is served, waits, fails, is cancelled, or takes too long.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fleets import Stack
from tests.pages import ROOT, blocks

HERE = Path(__file__).parent
SCENARIO = """
const say = async (name, job, seconds) => console.log(name, await outcome(await job, seconds).then((answer) => answer.text, (error) => error.message));
await say("served", enqueue("tasks.ai.complete", "ai", { prompt: "Say hello" }));
await say("failed", enqueue("tasks.ai.complete", "ai", { prompt: "x", model: "llama-9" }));
await fetch(`${process.env.SANDBOX}/exhaust`, { method: "POST", body: JSON.stringify({ service: "groq", seconds: 7 }) });
const unwanted = await enqueue("tasks.ai.complete", "ai", { prompt: "x" });
const waiting = enqueue("tasks.ai.complete", "ai", { prompt: "Say hello" });
await say("late", waiting, 2);
await cancel(unwanted);
await say("cancelled", unwanted);
await say("deferred", waiting);
await redis.close();
"""  # noqa: E501


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node")
def test_the_snippets_for_node_show_every_end_of_a_job(fresh: Stack, tmp_path: Path) -> None:
    [enqueue] = blocks(ROOT / "docs/enqueueing.md", "js")
    [cancel] = blocks(ROOT / "docs/managing-jobs.md", "js")
    functions = enqueue.partition("const id = await")[0]
    package = tmp_path / "node_modules" / "redis"
    package.mkdir(parents=True)
    shutil.copy(HERE / "redis_for_node.mjs", package / "index.mjs")
    (package / "package.json").write_text('{"name": "redis", "exports": "./index.mjs"}')
    (tmp_path / "snippet.mjs").write_text(functions + cancel + SCENARIO)
    environ = {
        **os.environ,
        "REDIS_URL": fresh.redis_url,
        "SANDBOX": f"{fresh.sandbox.groq_base_url}/control",
    }
    result = subprocess.run(
        ["node", "snippet.mjs"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    outcomes = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert outcomes["served"] == outcomes["deferred"] != ""
    assert outcomes["failed"].startswith("RequestRejected: model_not_found: ")
    assert outcomes["cancelled"] == "TaskRevokedError: revoked"
    assert "has not ended within 2 s" in outcomes["late"]
