"""The pages describe the code as it is: settings, metrics, errors, records."""

import ast
import re
import runpy
import tomllib
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from prometheus_client.core import CounterMetricFamily

from config.names import GONE
from config.services import SERVICES
from config.settings import SECRET_FIELDS, variable_of, variables
from tests.pages import ALL_PAGES, INLINE_RE, ROOT, blocks, text_of
from worker import errors
from worker.aio.pool_settings import PoolSettings
from worker.dashboard.metrics import OF_KEYS, OF_QUEUES
from worker.deadletters import OWNERS
from worker.emails.idempotency import RecordNames
from worker.keypool.names import Names


def test_every_folder_and_module_of_the_worker_is_described() -> None:
    page = text_of(ROOT / "docs/architecture.md").partition("## Folders\n")[2].partition("\n## ")[0]
    folders = {f"worker/{path.parent.name}/" for path in (ROOT / "worker").glob("*/__init__.py")}
    modules = {f"worker/{path.name}" for path in (ROOT / "worker").glob("*.py")}
    modules.remove("worker/__init__.py")
    assert {each for each in folders | modules if f"`{each}`" not in page} == set()


def test_the_described_commands_are_the_existing_ones() -> None:
    [row] = re.findall(
        r"^\| `worker/cli/` \| (.*) \|$", text_of(ROOT / "docs/architecture.md"), re.MULTILINE
    )
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    assert set(INLINE_RE.findall(row)) == set(project["entry-points"]["celery.commands"])


def test_the_pages_of_settings_are_written_from_the_code() -> None:
    written = runpy.run_path(str(ROOT / ".ci" / "write_docs.py"))
    assert text_of(ROOT / "docs/settings.md") == written["settings_page"](), "run `make docs`"
    assert text_of(ROOT / ".env.example") == written["example"](), "run `make docs`"


def test_the_schemas_are_written_from_the_code() -> None:
    written = runpy.run_path(str(ROOT / ".ci" / "write_docs.py"))["schemas"]()
    stored = {path.name: text_of(path) for path in (ROOT / "docs/schemas").iterdir()}
    assert stored == written, "run `make docs`"


def test_the_page_of_settings_has_every_setting_with_a_default_a_unit_and_a_meaning() -> None:
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.+) \| (.+) \| (.+) \|$",
        text_of(ROOT / "docs/settings.md"),
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(variables().values())
    for (*_, field), (variable, default, unit, meaning) in zip(variables(), rows, strict=True):
        assert (unit == "seconds") == field.endswith("_s"), variable
        assert re.fullmatch(r"`.+`|none", default), variable
        assert re.fullmatch(r"[A-Z0-9`].*\.", meaning), variable


def test_every_setting_that_is_named_exists() -> None:
    known = set(variables().values())
    known |= {f"{variable_of(field)}_FILE" for field in SECRET_FIELDS}
    for page in ALL_PAGES:
        named = set(re.findall(r"\bKEYWHEEL_\w+", text_of(page)))
        earlier = set(GONE) if page.name == "CHANGELOG.md" else set()
        assert named <= known | earlier, page.name


def test_the_described_settings_of_the_asyncio_pool_are_the_existing_ones() -> None:
    names = re.compile(r"^\|? *`?(worker_aio_\w+)", re.MULTILINE)
    assert set(names.findall(text_of(ROOT / "docs/asyncio-pool.md"))) == {
        f"worker_aio_{field.name}" for field in fields(PoolSettings)
    }


def test_every_metric_and_alert_of_the_rules_is_explained() -> None:
    page = text_of(ROOT / "docs/monitoring.md").partition("## Metrics and alerts\n")[2]
    rules = text_of(ROOT / "deploy/prometheus/keywheel.rules.yml")
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert [name for name in alerts if f"`{name}`" not in page] == []
    metrics = set(re.findall(r"keywheel_(\w+)", rules)) - {"rules"}
    assert {name for name in metrics if f"`{name}`" not in page} == set()


def test_every_metric_of_keys_and_queues_is_explained() -> None:
    page = text_of(ROOT / "docs/monitoring.md").partition("## Metrics and alerts\n")[2]
    names = [
        row.name + "_total" * (row.family is CounterMetricFamily) for row in (*OF_KEYS, *OF_QUEUES)
    ]
    assert [name for name in names if f"`{name}`" not in page] == []


def _defined_in(module: Path) -> set[str]:
    """Functions and classes, and methods after their class."""
    tree = ast.parse(text_of(module))
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    inner = {
        f"{outer.name}.{each.name}"
        for outer in tree.body
        if isinstance(outer, ast.ClassDef)
        for each in outer.body
        if isinstance(each, named)
    }
    return inner | {each.name for each in tree.body if isinstance(each, named)}


def test_the_page_that_follows_a_job_names_few_files_and_all_exist() -> None:
    page = text_of(ROOT / "docs/contributing/follow-a-job.md")
    completion, email = (
        re.findall(r"^\| `(\S+\.py)` \| `(\S+)` \|", part, re.MULTILINE)
        for part in page.partition("\n## A completion\n")[2].split("\n## An email\n")
    )
    for file, begin in completion + email:
        assert begin in _defined_in(ROOT / file), file
    files = [file for file, _ in completion]
    of_groq = {file for file in files if re.search("tasks/|arguments/|groq/", file)}
    assert len(files) == len(set(files)) <= 24
    assert len(set(files) - of_groq | {file for file, _ in email}) <= 28
    for script in re.findall(r"`(worker/\S+\.lua)`", page):
        assert (ROOT / script).is_file()


def test_the_metric_on_the_page_for_contributors_can_be_made() -> None:
    [code] = blocks(ROOT / "docs/contributing/add-a-metric.md", "python")
    exec(code, {})  # noqa: S102 - our own


def leaves(error: type[Exception]) -> set[str]:
    # `errors.error_of` makes others if an earlier test read an unknown one.
    below = [each for each in error.__subclasses__() if each in vars(errors).values()]
    return {error.__name__}.union(*(leaves(each) for each in below)) if below else {error.__name__}


def test_every_error_that_a_caller_may_meet_is_explained() -> None:
    page = text_of(ROOT / "docs/results.md").partition("## Errors\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", page))
    assert leaves(errors.JobError) - {"JobError"} <= named


def test_every_argument_of_the_tasks_is_named() -> None:
    # Imported here, because the tasks import the Celery app.
    from worker.arguments.completion import CompletionArguments  # noqa: PLC0415
    from worker.arguments.email import EmailArguments  # noqa: PLC0415

    named = set(re.findall(r"`([a-z_]+)`", text_of(ROOT / "docs/arguments.md")))
    for model in (CompletionArguments, EmailArguments):
        assert {field.alias or name for name, field in model.model_fields.items()} <= named, (
            model.__name__
        )


def test_every_record_of_the_pool_is_listed() -> None:
    page = text_of(ROOT / "docs/redis.md")
    groq, store = Names("kw", "groq"), RecordNames("kw")
    records = [
        groq.leases,
        groq.leased,
        groq.inflight,
        groq.audit,
        groq.actions,
        groq.blocks,
        groq.keys,
        groq.margins,
        groq.models,
        groq.wake,
    ]
    records += [groq.key("ID"), groq.account_model("NAME", "MODEL")]
    records += [store.mail("KEY").rpartition(":")[0] + ":HASH", store.batch("ID")]
    properties = {name for name, value in vars(Names).items() if isinstance(value, property)}
    assert properties == {
        "leases",
        "leased",
        "inflight",
        "audit",
        "actions",
        "blocks",
        "keys",
        "margins",
        "models",
        "wake",
    }
    assert [record for record in records if f"`{record}`" not in page] == []


def test_every_record_that_is_listed_is_one_of_the_pool() -> None:
    page = text_of(ROOT / "docs/redis.md").partition("## Records in Redis\n")[2]
    listed = set(re.findall(r"^\| (`[^|]+`) ", page, re.MULTILINE))
    ours = set(re.findall(r"\{kw:groq\}:([a-z_]+)", " ".join(listed)))
    code = [
        text_of(path)
        for path in (ROOT / "worker/keypool").rglob("*.*")
        if path.suffix in {".lua", ".py"}
    ]
    known = {name for text in code for name in re.findall(r"[\"':]([a-z_]+)[\"':]", text)}
    assert ours - known == set()


def test_the_rights_of_workers_hold_every_command_of_our_scripts() -> None:
    [rules] = re.findall(
        r"^user worker (.*)$", text_of(ROOT / "deploy/redis/users.acl"), re.MULTILINE
    )
    granted = set(re.findall(r"\+([a-z]+)", rules))
    texts = [
        path.read_text("utf-8")
        for path in (ROOT / "worker").rglob("*")
        if path.suffix in {".lua", ".py"}
    ]
    called = {
        name.lower()
        for text in texts
        for name in re.findall(r"redis\.p?call\(\s*['\"]([A-Za-z]+)", text)
    }
    assert called - granted == set(), "add them to deploy/redis/users.acl"


def test_the_endpoints_description_knows_every_service() -> None:
    schemas = yaml.safe_load(text_of(ROOT / "docs/openapi.yaml"))["components"]["schemas"]
    assert schemas["Service"]["enum"] == list(SERVICES)
    assert schemas["DeadLetterService"]["enum"] == list(OWNERS)


BENCHMARKS = (ROOT / "benchmarks/README.md").read_text()


@pytest.mark.parametrize(
    "command", re.findall(r"^\| `(python [^`]*)` \|", BENCHMARKS, re.MULTILINE)
)
def test_the_command_of_a_benchmark_finds_what_it_imports(command: str) -> None:
    module = find_spec(command.removeprefix("python -m "))
    assert module is not None
    assert module.origin is not None
    path = Path(module.origin)
    text = (path.with_name("__main__.py") if path.name == "__init__.py" else path).read_text()
    assert command in text
    tree = ast.parse(text)
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if (ROOT / "benchmarks" / f"{name}.py").exists()] == []
