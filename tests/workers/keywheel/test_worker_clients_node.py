"""The Node client with a real worker: its own tests, and the examples of its page."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import schemas
from tests.fleets import Stack
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs/clients-node.md"
CLIENT = ROOT / "clients/node"
MODULES = CLIENT / "node_modules"

pytestmark = pytest.mark.skipif(
    # npm writes this file last: an interrupted installation does not count.
    not (shutil.which("node") and (MODULES / ".package-lock.json").is_file()),
    reason="needs Node and `make examples`",
)

CLOSING = "await redis.close();\n"


def run(stack: Stack, folder: Path, *command: str | Path, url: str = "") -> str:
    environ = {
        **os.environ,
        "REDIS_URL": url or stack.redis_url,
        "SANDBOX": f"{stack.sandbox.groq_base_url}/control",
    }
    result = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built() -> None:
    """The present package, and not the one that was installed earlier."""
    subprocess.run([MODULES / ".bin/tsc"], cwd=CLIENT, check=True, timeout=60)


@pytest.fixture
def project(built: None, tmp_path: Path) -> Path:
    """A user's project with the client installed."""
    (tmp_path / "node_modules/@types").mkdir(parents=True)
    for name in ("redis", "@redis", "@types/node", "undici-types"):
        (tmp_path / "node_modules" / name).symlink_to(MODULES / name)
    (tmp_path / "node_modules/keywheel-client").symlink_to(CLIENT)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    options = {"module": "nodenext", "target": "es2022", "strict": True, "types": ["node"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    return tmp_path


def run_typescript(stack: Stack, project: Path, program: str) -> str:
    (project / "program.ts").write_text(program)
    run(stack, project, MODULES / ".bin/tsc")
    return run(stack, project, "node", "program.js")


def test_the_node_clients_own_tests_pass(fresh: Stack, web_url: str, built: None) -> None:
    output = run(fresh, CLIENT, "node", "--test", "test/", url=web_url)
    assert re.search(r"^# fail 0$", output, re.MULTILINE)
    assert re.search(r"^# pass [1-9]", output, re.MULTILINE)


def test_a_newcomer_to_node_has_a_result_in_fifteen_lines(fresh: Stack, project: Path) -> None:
    [install] = [block for block in blocks(PAGE, "sh") if "npm" in block]
    first = blocks(PAGE, "ts")[0]
    assert len([line for line in (install + first).splitlines() if line.strip()]) <= 15
    assert run_typescript(fresh, project, first).startswith("Sandbox ")
    (project / "program.mjs").write_text(first)  # it is valid JavaScript, too
    assert run(fresh, project, "node", "program.mjs").startswith("Sandbox ")


def test_every_example_for_node_runs(fresh: Stack, project: Path) -> None:
    first, *others = blocks(PAGE, "ts")
    typed = "const tokens: number | undefined = (await keywheel.result(answer)).usage.total_tokens;"
    program = "\n".join([first.removesuffix(CLOSING), *others, typed, CLOSING])
    output = run_typescript(fresh, project, program)
    assert "InvalidArguments to.0: is not an email address" in output
    assert "{ groq: 0 }" in output


def test_the_node_clients_messages_fit_the_documented_schemas(fresh: Stack, project: Path) -> None:
    program = """
import { Keywheel } from "keywheel-client";
const pipe = new Keywheel({
  async sendCommand(args: string[]) {
    if (args[0] === "TIME") return ["12", "345678"];
    console.log(JSON.stringify(args));
  },
}).pipeline();
const earlier = { text: "x", tool_calls: [], finish_reason: "stop", usage: {} };
pipe.complete({ prompt: "Say hello", dedupe_key: "x" });
pipe.complete({ messages: [{ role: "user", content: "x" }, earlier], models: ["a"], stream: true });
pipe.sendEmail({
  from: "B <b@example.com>", to: ["a@example.com"], cc: "c@example.com", subject: "x", html: "y",
  attachments: [{ filename: "a.txt", content: Buffer.from("abc") }],
  scheduled_at: new Date(0), tags: [{ name: "a", value: "b" }],
}, { jobId: "mine", priority: 7, expiresS: 60 });
pipe.add("tasks.admin.key_status", {});
pipe.add("tasks.admin.reset_keys", { service: "groq", by: undefined });
await pipe.send();
"""
    verb, _, _, *rest = json.loads(run_typescript(fresh, project, program))
    lists, texts = rest[::2], rest[1::2]
    assert (verb, lists) == ("EVAL", ["ai", "ai", "email\x06\x166", "admin", "admin"])
    headers = [json.loads(text)["headers"] for text in texts]
    assert [fields.get("enqueued_ms") for fields in headers] == [12_345, None, None, None, None]
    for text in texts:
        message = json.loads(text)
        args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
        assert (args, embed) == ([], {})
        schemas.check(message["headers"]["task"], "arguments", kwargs)
        if message["headers"]["id"] == "mine":
            assert kwargs["attachments"][0]["content"] == "YWJj"
            assert message["headers"]["expires"] > "2026"
            assert message["properties"]["priority"] == 7
