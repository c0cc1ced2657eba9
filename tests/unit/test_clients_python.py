"""The Python client: its names, imports, types and addresses."""

import ast
import sys
from typing import Any, get_type_hints

import pytest
from redis import Redis, SSLConnection
from redis.sentinel import Sentinel

import keywheel_client
from config.redis_url import ALL_SCHEMES, RedisUrl
from keywheel_client import (
    CompletionArguments,
    EmailArguments,
    arguments,
    quotes,
    results,
)
from keywheel_client.connection import Names
from keywheel_client.sentinels import open_client
from keywheel_client.stream_reader import StreamReader
from tests.pages import ROOT
from worker import results as worker_results
from worker.aio.connections import parameters_of
from worker.arguments import completion, email

FOLDER = ROOT / "clients/python/keywheel_client"


def test_it_exports_its_public_names() -> None:
    assert keywheel_client.__all__ == sorted(keywheel_client.__all__)
    assert {"Keywheel", "AsyncKeywheel", "JobFailed"} <= set(keywheel_client.__all__)


def test_it_imports_nothing_but_redis_and_django_in_one_module() -> None:
    known = {*sys.stdlib_module_names, "keywheel_client", "redis"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            allowed = known | ({"django"} if path.name == "django.py" else set())
            assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_it_reads_the_urls_of_sentinels_as_the_workers_do() -> None:
    login = "u:canary"
    for url in (
        f"sentinel://{login}@a:1,b/3?master_name=m&sentinel_password=x&ssl=true",
        f"sentinel://{login}@a:1;sentinel://b/3?master_name=m&sentinel_password=x&ssl=true",
    ):
        pool = open_client(url, plain=Redis, sentinel=Sentinel, retry=None).connection_pool
        workers = parameters_of(RedisUrl.read(url, schemes=ALL_SCHEMES).for_pool)
        assert pool.service_name == workers["sentinels"].master_name == "m"
        sentinels = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
        assert {sentinel.connection_kwargs["password"] for sentinel in sentinels} == {"x"}
        assert {sentinel.connection_class for sentinel in sentinels} == {SSLConnection}
        addresses = [
            (sentinel.connection_kwargs["host"], sentinel.connection_kwargs["port"])
            for sentinel in sentinels
        ]
        assert addresses == list(workers["sentinels"]._addresses) == [("a", 1), ("b", 26379)]
        for name in ("db", "username", "password"):
            assert pool.connection_kwargs[name] == workers[name]
    for wrong in ("sentinel://a:1/0", "sentinel://,b/0?master_name=m"):
        with pytest.raises(ValueError, match="the URL of sentinels needs"):
            open_client(wrong, plain=Redis, sentinel=Sentinel, retry=None)


def test_the_namespace_is_read_from_the_environment_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KEYWHEEL_NAMESPACE", raising=False)
    assert Names.of(None).stream("id") == "kw:stream:id"
    monkeypatch.setenv("KEYWHEEL_NAMESPACE", "shop")
    assert Names.of(None).cancel("id") == "shop:cancelled:id"
    assert Names.of("other").cancel("id") == "other:cancelled:id"


@pytest.mark.parametrize(
    ("typed", "model"),
    [
        (CompletionArguments, completion.CompletionArguments),
        (EmailArguments, email.EmailArguments),
        (arguments.Attachment, email.Attachment),
        (arguments.Tag, email.Tag),
        (arguments.Template, email.Template),
    ],
)
def test_its_types_have_the_arguments_that_the_worker_takes(typed: Any, model: Any) -> None:
    names = {field.alias or name for name, field in model.model_fields.items()}
    assert {name.rstrip("_") for name in get_type_hints(typed)} == names


@pytest.mark.parametrize(
    ("typed", "model"),
    [
        (results.CompletionResult, worker_results.CompletionResult),
        (results.EmailResult, worker_results.EmailResult),
        (results.KeyStatus, worker_results.KeyStatus),
        (results.ServiceStatus, worker_results.ServiceStatus),
        (results.ResetDone, worker_results.ResetResult),
        (quotes.Quote, worker_results.QuoteResult),
    ],
)
def test_its_types_have_what_the_worker_returns(typed: Any, model: Any) -> None:
    assert set(get_type_hints(typed)) == set(model.model_fields)


def test_an_event_that_was_made_from_the_result_leads_to_the_beginning() -> None:
    assert StreamReader("job-1", "", 5).after == "0"
