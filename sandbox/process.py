"""The sandbox as a process of its own, for tests and demos."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_CALL_TIMEOUT_S = 10.0
_PACKAGE = __name__.rpartition(".")[0]
_ROOT = Path(__file__).resolve().parents[__name__.count(".")]
"""The folder that the package is imported from."""


class SandboxError(Exception):
    """The sandbox did not start, or refused a control call; the message says why."""


class Sandbox:
    """`python -m sandbox` on a free port, stopped when the block ends and when this process dies.

        with Sandbox(groq_keys=3, groq_rpm=600) as sandbox:
            environment = os.environ | sandbox.env()
            sandbox.control("exhaust", service="groq", seconds=5)
            print(sandbox.ledger()["judgement"])

    A second stop does nothing. The sandbox can be started again, with other keys and another port.

    Args:
        scenario: A script as `sandbox.scenario` describes it, as a path or as its content.
        accounts: The content of a keys file.
        options: Options of the command line, with underscores: `groq_rpm=600`,
            `accept_unknown_keys=True`.
    """

    def __init__(
        self,
        *,
        scenario: Path | dict[str, Any] | list[dict[str, Any]] | None = None,
        accounts: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._scenario = scenario
        self._accounts = accounts
        self._options = {"port": 0} | options
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._environment: dict[str, str] = {}
        self._url = ""

    @property
    def groq_base_url(self) -> str:
        """The value for `GROQ_BASE_URL`; the SDK adds `/openai/v1`."""
        return self._url

    @property
    def resend_api_url(self) -> str:
        """The value for `RESEND_API_URL`."""
        return self._url

    @property
    def pid(self) -> int | None:
        """The process id while the sandbox runs."""
        return self._process.pid if self._process else None

    def env(self) -> dict[str, str]:
        """Return the variables for a client: URLs, keys, from addresses."""
        return dict(self._environment)

    def keys(self, service: str) -> list[str]:
        """Return the keys of a service, in order."""
        return [
            value
            for name, value in self._environment.items()
            if name.startswith(f"{service.upper()}_API_KEY")
        ]

    def start(self) -> Self:
        """Start the sandbox and wait until it listens.

        Raises:
            SandboxError: The sandbox did not start; the message has its output.
        """
        if self._process is not None:
            return self
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        folder = Path(self._folder.name)
        errors = folder / "stderr"
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with errors.open("wb") as stderr:
            # A session of its own: Ctrl-C in the terminal reaches us, and we decide when the
            # sandbox stops.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", _PACKAGE, "--stop-on-eof", *self._arguments(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        # If it hangs while starting, the timer ends it, and reading its output ends too.
        timer = threading.Timer(_START_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            ready = self._read_until_ready()
        finally:
            timer.cancel()
        if not ready:
            output = errors.read_text(errors="replace")[-800:]
            self.stop()
            raise SandboxError(f"the sandbox did not start: {output.strip() or 'it wrote nothing'}")
        return self

    def _arguments(self, folder: Path) -> list[str]:
        options = dict(self._options)
        for name, content in (("scenario", self._scenario), ("keys_file", self._accounts)):
            if isinstance(content, Path):
                options[name] = content
            elif content is not None:
                file = folder / f"{name}.json"
                file.touch(mode=0o600)
                file.write_text(json.dumps(content))
                options[name] = file
        arguments = []
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                arguments.append(flag)
            elif value is not False and value is not None:
                arguments += [flag, str(value)]
        return arguments

    def _read_until_ready(self) -> bool:
        assert self._process is not None  # noqa: S101 - narrows the type
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            text = line.decode().rstrip("\n")
            if text.startswith("READY "):
                self._url = text.removeprefix("READY ")
                return True
            name, _, value = text.partition("=")
            self._environment[name] = value[1:-1] if value[:1] == "'" else value
        return False

    def control(self, path: str, **body: Any) -> dict[str, Any]:
        """Make a control call: `control("revoke", key="groq:2")`.

        Raises:
            SandboxError: The sandbox refused it.
        """
        return self._call("POST", path, body)

    def state(self) -> dict[str, Any]:
        """Return the present accounts, keys and faults."""
        return self._call("GET", "state", None)

    def ledger(self, *, full: bool = False) -> dict[str, Any]:
        """Return the ledger's summary; `full` adds the latest calls one by one, as `calls`."""
        return self._call("GET", "ledger?full=1" if full else "ledger", None)

    def mail(self) -> dict[str, list[str]]:
        """Return the accounts that accepted emails of each subject, once for each email."""
        return self._call("GET", "mail", None)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=_CALL_TIMEOUT_S)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, "/control/" + path, content)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise SandboxError(f"{path}: {answer.get('error')}")
        return answer

    def stop(self) -> None:
        """Stop the process and wait until it has ended."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._environment = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
