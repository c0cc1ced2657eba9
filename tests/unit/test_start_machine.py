"""What a start says of this machine, of RabbitMQ and of certificates, without any of them."""

import errno
import logging
import resource
import ssl
import sys
from collections.abc import Iterator
from importlib import reload
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotAllowed
from celery import platforms

from config.errors import SettingsError
from config.settings import Settings, settings_from
from worker.startup import certificates, command, imports, machine, no_start, rabbitmq, redis_tls
from worker.startup.redis import refusal_of

INFINITE = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The limits of open files: what is raised stays raised."""
    found = SimpleNamespace(now=(100, 200), asked=[], error=None)

    def raise_to(_: int, to: tuple[int, int]) -> None:
        found.asked.append(to)
        if found.error is not None:
            raise found.error

    monkeypatch.setattr(resource, "getrlimit", lambda _: found.now)
    monkeypatch.setattr(resource, "setrlimit", raise_to)
    return found


@pytest.mark.parametrize(
    ("now", "needed", "raised", "allowed"),
    [
        ((100, 200), 100, [], 100),
        ((100, 200), 99, [], 99),
        ((100, 200), 101, [(101, 200)], 101),
        ((100, 200), 300, [(200, 200)], 200),
        ((200, 200), 300, [], 200),
        ((100, INFINITE), 300, [(300, INFINITE)], 300),
        ((INFINITE, INFINITE), 300, [], 300),
        ((-1, -1), 300, [], 300),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_has_to_and_can_be(
    limits: Any, now: tuple[int, int], needed: int, raised: list[Any], allowed: int
) -> None:
    limits.now = now
    assert machine._raise_open_files(needed) == allowed
    assert limits.asked == raised


@pytest.mark.parametrize("error", [ValueError("more than the kernel"), OSError(1, "no")])
def test_a_limit_that_the_kernel_does_not_allow_stays_as_it_was(
    limits: Any, error: Exception
) -> None:
    limits.error = error
    assert machine._raise_open_files(150) == 100


# The jobs, the limit of open files, and what is said.
@pytest.mark.parametrize(
    ("jobs", "hard", "said"),
    [
        (136, 200, None),  # and 64 beside the jobs
        (
            137,
            200,
            (
                "The concurrency of -c or --autoscale (137) needs about 201 open files, and this "
                "process may have 200: lower the former to 136, or raise the limit (ulimit -n 201)."
            ),
        ),
        (
            500,
            65,
            (
                "KEYWHEEL_WORKER_CONCURRENCY (500) needs about 564 open files, and this process "
                "may "
                "have 65: lower the former to 1, or raise the limit (ulimit -n 564)."
            ),
        ),
        (
            500,
            64,
            (
                "KEYWHEEL_WORKER_CONCURRENCY (500) needs about 564 open files, and this process "
                "may "
                "have 64: lower the former, or raise the limit (ulimit -n 564)."
            ),
        ),
    ],
)
def test_a_worker_of_more_jobs_than_open_files_says_how_many_fit(
    limits: Any, jobs: int, hard: int, said: str | None
) -> None:
    limits.now = (min(100, hard), hard)
    settings = Settings(worker_concurrency=500)
    assert list(machine._too_few_files(jobs, settings)) == ([said] if said else [])


def test_a_try_of_the_clients_that_fails_is_a_sentence_and_the_heartbeat_is_made(
    limits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits.now = (INFINITE, INFINITE)
    opened: list[Any] = []
    closed: list[str] = []

    class Opened:
        async def close(self) -> None:
            closed.append("closed")

    def open_runtime(*given: Any) -> Opened:
        opened.append(given)
        return Opened()

    monkeypatch.setattr(machine, "open_runtime", open_runtime)
    settings = Settings(heartbeat_path=str(tmp_path / "heartbeat"))
    machine.check_machine(settings, {}, {})
    assert opened == [(settings, {})]
    assert closed == ["closed"]
    assert (tmp_path / "heartbeat").exists()

    def fail(*_: Any) -> Opened:
        raise ValueError("a base URL")

    monkeypatch.setattr(machine, "open_runtime", fail)
    with pytest.raises(SettingsError) as caught:
        machine.check_machine(Settings(), {}, {})
    said = "The clients that jobs use cannot be built (ValueError: a base URL)."
    assert list(caught.value.sentences) == [said]


# --- certificates


def test_each_variable_of_openssl_is_checked_for_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("none")
    (tmp_path / "9f0a1b2c.0").mkdir()
    gone = str(tmp_path / "gone")
    unusable = "SSL_CERT_FILE names a file without usable certificates ("
    no_file = "SSL_CERT_FILE names a file that does not exist, so no certificate could be checked."
    no_folder = (
        "SSL_CERT_DIR names a folder that does not exist, so no certificate could be checked."
    )
    problems = certificates.certificate_problems
    assert list(problems({})) == []
    assert list(problems({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""})) == []
    assert list(problems({"SSL_CERT_FILE": gone, "SSL_CERT_DIR": gone})) == [no_file, no_folder]
    assert list(problems({"SSL_CERT_DIR": str(tmp_path)})) == []
    [said] = problems({"SSL_CERT_FILE": str(tmp_path / "roots.pem")})
    assert said.startswith(unusable)
    [said] = problems({"SSL_CERT_FILE": str(tmp_path)})
    assert said.startswith(unusable)
    assert not said.endswith("(None).")


def test_a_file_for_the_keys_of_tls_that_cannot_be_written_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import tls_key_log  # noqa: PLC0415 - it is the import that ends the start

    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    reload(tls_key_log)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "gone" / "keys"))
    sentence = (
        "SSLKEYLOGFILE names a file that cannot be written (No such file or directory): correct "
        "it, or unset it."
    )
    assert certificates.key_log_problem({"SSLKEYLOGFILE": str(tmp_path / "gone" / "k")}) == sentence
    with pytest.raises(SystemExit) as ended:
        reload(tls_key_log)
    assert str(ended.value) == f"keywheel cannot start.\n{sentence}"


# --- RabbitMQ


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A RabbitMQ that answers a connection with an error; `asked` has what it was asked by."""
    found = SimpleNamespace(error=None, asked=[], released=0)

    class Connection:
        def __init__(self, url: str, **options: Any) -> None:
            found.asked.append((url, options))

        def connect(self) -> None:
            if found.error is not None:
                raise found.error

        def release(self) -> None:
            found.released += 1

    monkeypatch.setattr(rabbitmq, "_Connection", Connection)
    return found


def by_url(url: str) -> Settings:
    return settings_from({"CELERY_BROKER_URL": url})


def test_rabbitmq_is_asked_once_and_no_redis_is(broker: Any) -> None:
    rabbitmq.check_rabbitmq(by_url("redis://127.0.0.1:6379/0"))
    assert broker.asked == []
    rabbitmq.check_rabbitmq(by_url("amqp://u:p@h:5672/v"))
    [(url, options)] = broker.asked
    assert url.startswith("amqp://u:p@h:5672/")
    assert options == {"ssl": False, "connect_timeout": 5.0}
    assert broker.released == 1
    rabbitmq.check_rabbitmq(by_url("amqps://u:p@h:5671/v"))
    assert isinstance(broker.asked[1][1]["ssl"], dict)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AccessRefused("no"), "does not let this worker in: the user or the password is wrong"),
        (
            NotAllowed("no"),
            (
                "has no such virtual host, or this user may not use it: it stands at the end of "
                "the "
                "URL, as in amqp://user:password@host:5672/vhost"
            ),
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), None),
    ],
)
def test_a_rabbitmq_that_refuses_ends_the_start_and_one_that_is_away_is_waited_for(
    broker: Any, caplog: pytest.LogCaptureFixture, error: Exception, words: str | None
) -> None:
    caplog.set_level(logging.DEBUG, "worker.startup.rabbitmq")
    broker.error = error
    settings = by_url("amqp://u:canary@h:5672/v")
    if words is None:
        rabbitmq.check_rabbitmq(settings)
        [told] = caplog.messages
        assert told == f"cannot check RabbitMQ at {settings.broker_url} yet: {error}"
        assert "canary" not in told
    else:
        with pytest.raises(SettingsError) as caught:
            rabbitmq.check_rabbitmq(settings)
        at = "CELERY_BROKER_URL: RabbitMQ at amqp://u:***@h:5672/v"
        assert str(caught.value) == f"{at} {words}."
    assert broker.released == 1


# --- Redis' certificates


def test_a_handshake_that_the_server_ends_says_which_certificate_is_wanted() -> None:
    alert = ssl.SSLError(1, "x")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert redis_tls.tls_refusal_of(alert) == (
        "does not take this worker's certificate, or wants one (TLSV13_ALERT_CERTIFICATE_REQUIRED):"
        " name it, ssl_certfile and ssl_keyfile"
    )
    other = ssl.SSLError(1, "x")
    other.reason = "WRONG_VERSION_NUMBER"
    assert redis_tls.tls_refusal_of(other) is None
    assert redis_tls.tls_refusal_of(OSError("ALERT")) is None
    assert refusal_of(alert) == redis_tls.tls_refusal_of(alert)


@pytest.mark.parametrize(("code", "advice"), [(9, "renew it, "), (64, "name the host as ")])
def test_a_certificate_of_another_time_or_host_needs_no_authority(code: int, advice: str) -> None:
    refused = ssl.SSLCertVerificationError(1, "x")
    refused.verify_code, refused.verify_message = code, "words."
    said = str(redis_tls.tls_refusal_of(refused))
    assert said.startswith(f"shows a certificate that is not trusted (words): {advice}")


def test_what_is_no_tls_or_no_host_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("it connects")

    monkeypatch.setattr(redis_tls.socket, "create_connection", refuse)
    assert redis_tls.unwanted_certificate("redis://127.0.0.1:1/0") is None
    assert redis_tls.mismatched_tls("unix:///run/redis.sock") is None


# --- the command line


def test_our_guards_stand_around_the_commands_that_celery_has_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, run = (lambda: "context"), (lambda: "ran")
    of_workers: Any = ModuleType("celery.bin.worker")
    of_workers.worker = SimpleNamespace(make_context=made, callback=run)
    of_workers.maybe_drop_privileges = drop = platforms.maybe_drop_privileges
    of_beat: Any = ModuleType("celery.bin.graph")
    other: Any = ModuleType("other")
    other.maybe_drop_privileges = drop
    for module in (of_workers, of_beat, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(platforms, "maybe_drop_privileges", drop)
    command.install()
    assert of_workers.worker.make_context is not made
    assert of_workers.worker.make_context() == "context"
    assert of_workers.worker.callback is not run
    assert of_workers.worker.callback() == "ran"
    assert of_workers.maybe_drop_privileges.__wrapped__ is drop
    assert platforms.maybe_drop_privileges.__wrapped__ is drop  # type: ignore[attr-defined]
    assert other.maybe_drop_privileges is drop
    assert not hasattr(of_beat, "maybe_drop_privileges")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            AttributeError("'list' object has no attribute 'join'"),
            "--autoscale takes one or two whole numbers: --autoscale=500,10.",
        ),
        (
            ImportError("No module named 'x'"),
            (
                "The pool of -P cannot be loaded (No module named 'x'). Keywheel's jobs run in "
                "its own "
                "asyncio pool: leave out -P."
            ),
        ),
    ],
)
def test_an_option_that_celery_fails_to_read_is_named(error: Exception, sentence: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command._guarded(fail, command._options_in_a_sentence)()
    assert str(ended.value) == f"keywheel cannot start.\n{sentence}"


# --- what cannot be imported


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that stands before another one of its name."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    module = ModuleType("twice")
    module.__file__ = str(tmp_path / "first" / "twice.py")
    monkeypatch.setitem(sys.modules, "twice", module)
    return tmp_path


def test_a_module_that_hides_another_one_is_named_with_both_places(named: Path) -> None:
    first, second = named / "first" / "twice.py", named / "second" / "twice.py"
    said = imports.about_import(ImportError("cannot import name 'x'", name="twice.sub"))
    assert said == (
        f"{first} hides the module twice that is needed, {second}: rename the first, or take its "
        "folder out of PYTHONPATH, or start in another folder."
    )
    second.unlink()
    assert imports.about_import(ImportError("cannot import name 'x'", name="twice")) == (
        f"The module twice at {first} is not the one that is needed (cannot import name 'x'): "
        "install the versions that Keywheel asks for."
    )
    assert imports.about_import(ImportError("odd")) == (
        f"The Python module that is needed cannot be imported (odd): install it for "
        f"{sys.executable}, or start the Python that has it."
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ImportError("odd"), "The Python module that is needed cannot be imported (odd)"),
        (AttributeError("no x", obj=sys.modules["json"]), "The module json at "),
        (DeprecationWarning("x\n is old"), "The warning was a DeprecationWarning: x is old"),
        (
            UserWarning("running with superuser privileges"),
            (
                "Python makes an error of each warning here (PYTHONWARNINGS=error or -W error), "
                "also "
                "of Celery's about a worker with superuser privileges: start it as another user "
                "(--uid), or unset PYTHONWARNINGS."
            ),
        ),
    ],
)
def test_what_cannot_be_imported_ends_the_start(error: Exception, sentence: str) -> None:
    with (
        pytest.raises(SystemExit, match=r"^keywheel cannot start") as ended,
        imports.imports_in_a_sentence(),
    ):
        raise error
    assert sentence in str(ended.value)


def test_a_start_ends_with_a_sentence_although_a_part_of_ours_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "worker.startup.no_start", None)
    assert imports._end("why").code == "keywheel cannot start.\nwhy"


# --- how a start ends


@pytest.mark.parametrize(("form", "as_json"), [("", False), (" JSON ", True), ("text", False)])
def test_the_last_words_of_a_start_have_the_form_of_the_logs(
    monkeypatch: pytest.MonkeyPatch, form: str, *, as_json: bool
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(no_start, "read_environment", lambda: {"KEYWHEEL_LOG_FORMAT": form})
    monkeypatch.setattr(no_start, "say_json", lambda text, **options: said.append((text, options)))
    text = "keywheel cannot start.\nwhy"
    assert no_start.no_start("why").code == (1 if as_json else text)
    critical = {"level": "CRITICAL", "logger": "worker.celery"}
    assert said == [(text, critical)] * as_json


def test_the_form_is_that_of_the_environment_where_no_file_of_it_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Any:
        raise SettingsError([".env cannot be read"])

    monkeypatch.setattr(no_start, "read_environment", fail)
    monkeypatch.delenv("KEYWHEEL_LOG_FORMAT", raising=False)
    assert not no_start.logs_json()
    monkeypatch.setenv("KEYWHEEL_LOG_FORMAT", "json")
    assert no_start.logs_json()


def test_a_worker_in_the_background_has_its_last_words_in_its_file(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "worker.log")
    logging.getLogger().addHandler(handler)
    try:
        no_start.no_start("why")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert (tmp_path / "worker.log").read_text() == "keywheel cannot start.\nwhy\n"


def test_a_bug_in_the_search_for_a_primary_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def primary() -> None:
        raise error

    sentinels = SimpleNamespace(addresses=[], has_tls=False, primary=primary)
    found = {"connection_class": object, "sentinels": sentinels}
    monkeypatch.setattr(redis_tls, "parameters_of", lambda _: found)
    error: Exception = redis_tls.redis.RedisError("nobody knows it")
    assert redis_tls.mismatched_tls("sentinel://h") is None
    error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        redis_tls.mismatched_tls("sentinel://h")
