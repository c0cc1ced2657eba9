"""`python -m sandbox`: a simulation of Groq and Resend, without keys or network."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from sandbox.command_line import config_of, make_parser
from sandbox.control import ControlError
from sandbox.scenario import Scenario, play, read_scenario
from sandbox.server import Listener, Sandbox

READY = "READY"


async def serve(given: argparse.Namespace) -> int:
    """Serve until a signal arrives; returns the exit code."""
    try:
        sandbox = Sandbox(config_of(given))
        scenario = read_scenario(given.scenario, sandbox.control.verbs) if given.scenario else None
    except ValueError as exc:
        return _print_error(str(exc))
    listener = Listener(sandbox, host=given.host, port=given.port)
    try:
        await listener.start()
    except OSError as exc:
        return _print_error(f"cannot listen on {given.host}:{given.port}: {exc.strerror or exc}")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    watched = given.stop_on_eof and _watch_stdin(loop, stop)
    played: list[asyncio.Task[None]] = []
    if scenario is not None:
        _start_on_first_call(scenario, sandbox, played)
    url = f"http://{given.host}:{listener.port}"
    lines = {"GROQ_BASE_URL": url, "RESEND_API_URL": url} | sandbox.roster.environment
    try:
        with _redis() if given.redis else contextlib.nullcontext() as redis_url:
            if redis_url is not None:
                lines["REDIS_URL"] = redis_url
            for name, value in lines.items():
                print(f"{name}={value!r}" if " " in value else f"{name}={value}")  # noqa: T201
            print(f"{READY} {url}", flush=True)  # noqa: T201
            await stop.wait()
    except NoRedisError as exc:
        return _print_error(str(exc))
    finally:
        if watched:
            loop.remove_reader(sys.stdin.fileno())
        for task in played:
            task.cancel()
        await listener.stop()
    return 0


class NoRedisError(Exception):
    """No Redis can be started on this machine."""


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis of our own, and yield its URL; its data is removed with it."""
    from sandbox.redis import EmbeddedRedis  # noqa: PLC0415 - most sandboxes do without

    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(EmbeddedRedis())
        except RuntimeError as exc:
            raise NoRedisError(str(exc)) from exc
        yield server.url


def _start_on_first_call(
    scenario: Scenario, sandbox: Sandbox, played: list[asyncio.Task[None]]
) -> None:
    async def run() -> None:
        try:
            await play(scenario, sandbox.control)
        except ControlError as exc:
            _print_error(f"scenario: {exc}")

    def start() -> None:
        played.append(asyncio.get_running_loop().create_task(run()))

    if scenario.starts == "ready":
        start()
    else:
        sandbox.on_first_call = start


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> bool:
    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 4_096):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), readable)
    return True


def _print_error(sentence: str) -> int:
    print(f"sandbox: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    return 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    given = make_parser().parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            import uvloop  # noqa: PLC0415 - faster where it is installed
        except ImportError:
            return asyncio.run(serve(given))
        return int(uvloop.run(serve(given)))
    return 130


if __name__ == "__main__":
    sys.exit(main())
