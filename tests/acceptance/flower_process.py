"""Flower as a process, with a login."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.redis import free_port
from tests.processes import environment, eventually, unmeasured

LOGIN = ("ada", "canary-password-5571")


@contextmanager
def flower(folder: Path, environ: dict[str, str]) -> Iterator[str]:
    """Run `celery -A worker flower` with a login; yield its address.

    If the block fails, Flower's log is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    login = {"FLOWER_BASIC_AUTH": ":".join(LOGIN), "FLOWER_PORT": str(port)}
    with (folder / "flower.log").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", "flower"],
            cwd=folder, env=unmeasured(environment(**environ, **login)), stdout=sink, stderr=sink,
                start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/healthcheck", timeout=5):  # noqa: S310 - our own
                return True
        except OSError:
            return False

    try:
        eventually(answers, within_s=40, what="Flower's answer")
        yield url
    except BaseException:
        sys.stderr.write((folder / "flower.log").read_text(errors="replace")[-10_000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def metric(url: str, name: str) -> float:
    """Return one sample of `/metrics`, which needs no login."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own
        return float(answer.read().decode().partition(f"\n{name} ")[2].split("\n")[0])
