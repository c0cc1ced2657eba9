import gc
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import HealthCheck, settings

from demo import reaper as reaper_script
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.measuring import unmeasured_children
from tests.spreading import BySharedWorker, reads_unit_tests

# On a busy machine examples may take long; that is not a failure.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

_HERE = Path(__file__).parent
_MARKS = {
    "acceptance": pytest.mark.worker,
    "faults": pytest.mark.worker,
    "workers": pytest.mark.worker,
    "integration": pytest.mark.integration,
    "unit": pytest.mark.unit,
}
"""The processes that the tests of each folder start. The slowest folders come first."""

_GRACE_S = 20
"""How long a process may take to end its children after its test has failed."""

_OURS = ("GROQ_", "RESEND_", "REDIS_URL", "CELERY_", "KEYWHEEL_", "FLOWER_", "ADMIN_")


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt objects that live until the end from garbage collection, to make it faster."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect unit tests only in the processes that run them."""
    return True if collection_path == _HERE / "unit" and not reads_unit_tests(config) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and put the slowest folders first.

    Otherwise one of several test processes would still run them when the others have ended.
    """
    order = list(_MARKS)
    items.sort(key=lambda item: order.index(folder) if (folder := _folder(item)) in order else -1)
    for item in items:
        if mark := _MARKS.get(_folder(item)):
            item.add_marker(mark)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySharedWorker | None:
    """Spread files over the processes, but keep files together that share a worker."""
    return BySharedWorker(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> None:
    """Remove the machine's own settings, so that none reaches a test."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Trust a single authority: tests need none, and reading them all takes 0.1 s of CPU."""
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(certifi.contents().partition(end)[0] + end)
    os.environ.pop("SSL_CERT_DIR", None)
    os.environ["SSL_CERT_FILE"] = str(file)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Restore SIGINT, which a shell's background job, and so each of its children, ignores."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _guarded() -> Iterator[None]:
    """End every process that tests started when this process ends, even if it is killed.

    Servers and workers lead sessions of their own, so a reaper ends them. If the block of
    `with subprocess.Popen(…)` fails, its process is ended here: otherwise Python would wait for it
    for ever, even while pytest-timeout ends the test.
    """
    start, leave = subprocess.Popen.__init__, subprocess.Popen.__exit__
    command = [sys.executable, "-I", "-S", reaper_script.__file__]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, text=True, cwd="/"
        ) as reaper,
        pytest.MonkeyPatch.context() as patch,
    ):

        def start_guarded(self: "subprocess.Popen[Any]", *args: Any, **options: Any) -> None:
            start(self, *args, **options)
            if options.get("start_new_session"):
                print(self.pid, file=reaper.stdin, flush=True)

        def leave_guarded(self: "subprocess.Popen[Any]", kind: Any, *error: Any) -> None:
            if kind is not None and self.poll() is None:
                self.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.wait(_GRACE_S)
                self.kill()
            leave(self, kind, *error)

        patch.setattr(subprocess.Popen, "__init__", start_guarded)
        patch.setattr(subprocess.Popen, "__exit__", leave_guarded)
        yield
        print("done", file=reaper.stdin, flush=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real server for the whole run; tests that restart or fill a server start their own."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The URL of an empty database."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="module")
def unmeasured_processes() -> Iterator[None]:
    """Measure no coverage in processes that reach no new code, or are killed before they report it.

    They run as fast as for a user; a measured process takes twice as long to start.
    """
    with unmeasured_children():
        yield


@pytest.fixture(autouse=True, scope="session")
def _unmeasured_sandboxes() -> Iterator[None]:
    """Measure no coverage in sandboxes."""
    start = Sandbox.start

    def start_unmeasured(self: Sandbox) -> Sandbox:
        with unmeasured_children():
            return start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sandbox, "start", start_unmeasured)
        yield


@pytest.fixture
def untraced() -> Iterator[None]:
    """Switch tracing off for tests that run much of our code again and again.

    Measuring coverage makes them ten times slower. The mark of pytest-cov for this has no effect in
    the processes of pytest-xdist, where two measurements are active at once.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)
