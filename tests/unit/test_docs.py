"""The pages themselves: links, file names, line lengths, code blocks, diagrams."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.pages import (
    ALL_PAGES,
    DOCS,
    INLINE_RE,
    OF_BENCHMARKS,
    PAGES,
    ROOT,
    blocks,
    prose,
    text_of,
)

LINK_RE = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OUR_PATH_RE = re.compile(
    r"(?:config|worker|tasks|sandbox|demo|tests|docs|deploy|benchmarks|examples|\.ci)/[\w./-]*|[\w.-]+\.(?:py|md|lua|ya?ml|toml|svg|lock|example)"
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def by_name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", ALL_PAGES, ids=by_name)
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    for link in LINK_RE.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{page.name} links out of the project: {link}"
        if anchor:
            assert anchor in anchors(target), (
                f"{page.name} links to {link}, but there is no such heading"
            )


@pytest.mark.parametrize("page", ALL_PAGES, ids=by_name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    for code in INLINE_RE.findall(prose(page)):
        if OUR_PATH_RE.fullmatch(code):
            there = (ROOT / code).exists() or (page.parent / code).exists()
            assert there, f"{page.name} names {code}"


CODE = [
    *(ROOT / name for name in ("Makefile", "Dockerfile", "pyproject.toml", ".ci/venv", ".ci/run")),
    *(
        path
        for folder in ("config", "worker", "tasks", "sandbox", "demo", "benchmarks", ".ci")
        for suffix in ("py", "lua")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ),
]
FILE_IN_CODE_RE = re.compile(
    r"(?<![\w./-])(?:config|worker|tasks|sandbox|demo|docs|deploy|benchmarks|examples|\.ci)/"
    r"[\w./-]*\.(?:py|md|lua|ya?ml|toml)\b"
)


def test_every_file_that_the_code_names_exists() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in CODE
        for name in FILE_IN_CODE_RE.findall(text_of(path))
    }
    assert len(named) > 20
    assert {each for each in named if not (ROOT / each[1]).is_file()} == set()


MODULE_RE = re.compile(r"\b(worker(?:\.[a-z_]+)+)(?:[:.]([A-Z]\w*))?")


@pytest.mark.parametrize("page", ALL_PAGES, ids=by_name)
def test_every_module_that_is_named_exists(page: Path) -> None:
    """A dotted name is a module, or a module and a name defined in it."""
    for dotted, name in MODULE_RE.findall(text_of(page)):
        *parents, last = dotted.split(".")
        module, parent = ROOT.joinpath(*parents, last), ROOT.joinpath(*parents)
        if dotted in {"worker.module", "worker.x"}:  # placeholders
            continue
        is_module = module.is_dir() or module.with_suffix(".py").is_file()
        home = module if is_module else parent
        texts = [
            text_of(path)
            for path in (home.with_suffix(".py"), home / "__init__.py")
            if path.is_file()
        ]
        for part in filter(None, (name, "" if is_module else last)):
            assert any(re.search(rf"\b{part}\b", text) for text in texts), f"{dotted}: {name}"


def test_the_glossary_has_each_word_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", text_of(ROOT / "docs/glossary.md"), re.MULTILINE)
    words = [word.strip() for row in rows if row not in {"word", "---"} for word in row.split(",")]
    assert len(words) > 50
    assert sorted(words) == sorted(set(words))


def test_the_readme_shows_the_running_thing_first() -> None:
    head = "\n".join(text_of(ROOT / "README.md").splitlines()[:40])
    assert re.search(r"^make demo\b", head, re.MULTILINE)
    assert re.search(r"^make test\b", head, re.MULTILINE)
    assert "](docs/demo.svg)" in head
    assert "jobs failed: 0" in head


def test_every_page_of_the_docs_is_linked_from_the_readme_or_for_contributors() -> None:
    readme, contributing = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
    links = {*LINK_RE.findall(text_of(readme)), *LINK_RE.findall(text_of(contributing))}
    assert {page.relative_to(ROOT).as_posix() for page in DOCS} <= links


@pytest.mark.parametrize("page", ALL_PAGES, ids=by_name)
def test_no_line_is_longer_than_100_columns(page: Path) -> None:
    """A row of a table cannot be broken, and neither can an address."""
    lines = enumerate(text_of(page).splitlines(), start=1)
    long = [
        number for number, line in lines if len(line) > 100 and not line.lstrip().startswith("|")
    ]
    assert long == [], page.name


WRITTEN_FROM_CODE = "settings.md"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=by_name)
def test_each_page_says_first_for_whom_it_is(page: Path) -> None:
    if page.name != WRITTEN_FROM_CODE:
        assert text_of(page).split("\n\n")[1].startswith("For "), page.name


@pytest.mark.parametrize("page", [*DOCS, *OF_BENCHMARKS], ids=by_name)
def test_no_page_is_longer_than_300_lines(page: Path) -> None:
    assert len(text_of(page).splitlines()) <= 300, "divide the page by subject"


@pytest.mark.parametrize("page", DOCS, ids=by_name)
def test_no_paragraph_has_more_than_four_sentences(page: Path) -> None:
    for paragraph in prose(page).split("\n\n"):
        if paragraph.lstrip().startswith("|"):
            continue
        for item in re.split(r"\n(?= *(?:-|\d+\.) )", paragraph):
            sentences = re.findall(r"(?<!^\d)[.?!](?=\s|\*\*\s|$)", item)
            assert len(sentences) <= 4, item


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in ALL_PAGES:
        code = [
            *INLINE_RE.findall(prose(page)),
            *(line for block in blocks(page, "sh") for line in block.splitlines()),
        ]
        named = {words[1] for line in code if len(words := line.split()) > 1 and words[0] == "make"}
        assert {name for name in named if "=" not in name and name != "#"} <= targets, page.name


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_name_of_ours_that_a_block_imports_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "worker."
            ):
                continue
            module = ROOT.joinpath(*str(node.module).split("."))
            texts = [
                text_of(path)
                for path in (module.with_suffix(".py"), module / "__init__.py")
                if path.is_file()
            ]
            for alias in node.names:
                submodule = (module / alias.name).with_suffix(".py")
                known = any(re.search(rf"\b{alias.name}\b", text) for text in texts)
                assert submodule.is_file() or known, f"{page.name}: {node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_shell_block_has_balanced_quotes(page: Path) -> None:
    for block in blocks(page, "sh"):
        assert shlex.split(block, comments=True)


@cache
def mermaid() -> list[tuple[str, str]]:
    return [(page.name, block) for page in PAGES for block in blocks(page, "mermaid")]


def test_every_diagram_has_a_kind_and_content() -> None:
    assert {name for name, _ in mermaid()} >= {"architecture.md", "states.md"}
    for name, block in mermaid():
        first, *rest = [line.strip() for line in block.splitlines() if line.strip()]
        assert first.split()[0] in {"stateDiagram-v2", "flowchart", "sequenceDiagram"}, name
        assert len(rest) > 2, name


def test_every_transition_of_a_diagram_names_its_cause() -> None:
    seen = 0
    for name, block in mermaid():
        if not block.lstrip().startswith("stateDiagram"):
            continue
        for line in filter(None, map(str.strip, block.splitlines()[1:])):
            transition = re.fullmatch(r"(\w+|\[\*\]) --> (\w+|\[\*\])(?:: (.+))?", line)
            assert transition, f"{name}: {line}"
            seen += 1
            if "[*]" not in transition.groups():
                assert transition[3], f"{name}: {line}"
    assert seen > 20


def test_pictures_are_well_formed_and_fetch_nothing() -> None:
    pictures = sorted((ROOT / "docs").glob("*.svg"))
    assert pictures
    for picture in pictures:
        tree = ET.parse(picture)  # noqa: S314 - a file of ours
        assert tree.getroot().tag.endswith("svg")
        assert not re.search(r"url\(\s*[\"']?\w+:|href=|@import|<script", text_of(picture)), (
            picture.name
        )
