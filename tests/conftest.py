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

# A busy machine is no finding: examples may take their time.
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
"""What the tests of each folder start. Those that wait longest come first."""

_GRACE_S = 20
"""How long a process may take to end what it has started, once its test has failed."""

_OURS = ("GROQ_", "RESEND_", "REDIS_URL", "CELERY_", "KEYWHEEL_", "FLOWER_", "ADMIN_")


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what stays until the end from the garbage collector: each run would go through it."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the unit tests to the processes that run them."""
    return True if collection_path == _HERE / "unit" and not reads_unit_tests(config) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and put those that wait longest first.

    So none of several test processes is left with them at the end.
    """
    order = list(_MARKS)
    items.sort(key=lambda item: order.index(folder) if (folder := _folder(item)) in order else -1)
    for item in items:
        if mark := _MARKS.get(_folder(item)):
            item.add_marker(mark)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySharedWorker | None:
    """Spread files over the processes, but keep those together that share a worker."""
    return BySharedWorker(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> None:
    """No setting of the machine may reach a test."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test asks the internet, and to read all authorities takes each process 0.1 s of CPU."""
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(certifi.contents().partition(end)[0] + end)
    os.environ.pop("SSL_CERT_DIR", None)
    os.environ["SSL_CERT_FILE"] = str(file)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A shell's background job ignores SIGINT, and so would each process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _guarded() -> Iterator[None]:
    """What tests started ends with this process, however that ends.

    Servers and workers lead sessions of their own. And the block of `with subprocess.Popen(…)` that
    fails ends its process: it would wait for it for ever, even as pytest-timeout ends the test.
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
    """One real server for the whole run; tests that restart or fill theirs start their own."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The URL of an empty database."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="module")
def unmeasured_processes() -> Iterator[None]:
    """For tests whose processes cover nothing new, or are killed before they can say what.

    They run as fast as they would for a user; measured, one takes twice as long to start.
    """
    with unmeasured_children():
        yield


@pytest.fixture(autouse=True, scope="session")
def _unmeasured_sandboxes() -> Iterator[None]:
    """Nothing that a sandbox runs is measured."""
    start = Sandbox.start

    def start_unmeasured(self: Sandbox) -> Sandbox:
        with unmeasured_children():
            return start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sandbox, "start", start_unmeasured)
        yield


@pytest.fixture
def untraced() -> Iterator[None]:
    """For tests that run much of our code over and over.

    What measures coverage makes that ten times slower.

    pytest-cov's own mark for this does nothing in pytest-xdist's processes, where two measurements
    lie upon each other.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)
