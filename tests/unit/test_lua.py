"""The Lua scripts: each states what it requires, and no library has an unused function."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from worker.aio.lua_source import source

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "worker.keypool",
    "worker.emails.idempotency",
    "worker.deadletters",
    "worker.jobs",
    "worker.aio.transport",
)
VERBS = [
    (package, path.stem)
    for package in PACKAGES
    for path in sorted((ROOT / package.replace(".", "/") / "lua").glob("*.lua"))
]


def code_of(text: str) -> str:
    return re.sub(r"--.*", "", text)


@pytest.mark.parametrize(("package", "verb"), VERBS)
def test_a_script_has_all_that_its_libraries_call(package: str, verb: str) -> None:
    text = code_of(source(package, verb))
    defined = set(re.findall(r"local function (\w+)", text))
    for line in re.findall(r"local ([\w, ]+)(?:=|\n)", text):
        defined |= {name.strip() for name in line.split(",")}
    called = set(re.findall(r"(?<![\w.:'])([a-z_]+)\(", text))
    lua = {"function", "tonumber", "tostring", "pairs", "ipairs", "unpack", "next", "type", "error"}
    lua |= {"assert", "pcall", "and", "or", "not", "if", "elseif", "return", "in"}
    lua |= {"max", "min", "floor", "ceil"}
    assert called - lua <= defined


@pytest.mark.parametrize("package", PACKAGES)
def test_every_function_of_a_library_is_used(package: str) -> None:
    folder = ROOT / package.replace(".", "/") / "lua"
    text = code_of("\n".join(path.read_text("utf-8") for path in sorted(folder.rglob("*.lua"))))
    names = re.findall(r"local function (\w+)", text)
    assert [name for name in names if len(re.findall(rf"\b{name}\b", text)) < 2] == []


def test_no_line_is_longer_than_120_characters() -> None:
    long = [
        f"{path.name}:{number}"
        for path in (ROOT / "worker").rglob("*.lua")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert long == []


def test_a_script_is_printed_as_redis_runs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lua", "worker.keypool", "acquire"])
    runpy.run_path(str(ROOT / "worker/redis/lua.py"), run_name="__main__")
    assert capsys.readouterr().out == source("worker.keypool", "acquire")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: package, verb"),
        (["worker.keypool"], "the following arguments are required: verb"),
        (["worker.keypool", "acquier"], "there is no script acquier in worker.keypool"),
        (["worker.nothing", "acquire"], "there is no script acquire in worker.nothing"),
    ],
)
def test_an_unknown_script_is_answered_with_the_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["lua", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "worker/redis/lua.py"), run_name="__main__")
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith("usage: python -m worker.redis.lua [-h] package verb")
    assert sentence in written
