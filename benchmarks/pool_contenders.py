"""Who takes part in the pool's benchmark, and the environments that they need."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENTS = ROOT / ".tmp" / "bench"
_CELERY_PACKAGES = ("celery[redis]>=5.7,<5.8", "redis>=8,<8.2")
REQUIREMENTS = {
    # The pool as another project would use it: `celery` loads the commands of what is installed beside it, and this
    # project's bring 26 MB of its own.
    "celery": (*_CELERY_PACKAGES, "greenlet>=3.1", "uvloop>=0.21"),
    "arq": ("arq",),
    "saq": ("saq[redis,hiredis]", "typing-extensions"),
    "taskiq": ("taskiq", "taskiq-redis"),
    "streaq": ("streaq", "redis"),
    "gevent": (*_CELERY_PACKAGES, "gevent"),
}
"""What each environment installs on the first run: they disagree about the redis client."""


@dataclass(frozen=True)
class Contender:
    """One queue.

    Attributes:
        name: For the table and the child.
        command: The worker's, after `python -m`; `{c}` is the concurrency.
        environment: Whose packages it needs.
        most: The highest concurrency that makes sense; more threads or processes only choke.
    """

    name: str
    command: str
    environment: str
    most: int = 1_000_000

    @property
    def module(self) -> str:
        """What sends the jobs."""
        return "pool_celery" if self.environment in {"celery", "gevent"} else "pool_peers"


_CELERY = "celery -A pool_celery worker -l WARNING --without-gossip --without-mingle --without-heartbeat -c {c}"
REFERENCE = "keywheel"
CONTENDERS = (
    Contender(REFERENCE, _CELERY, "celery"),
    Contender("keywheel, stock transport", _CELERY, "celery"),
    Contender("prefork", _CELERY, "celery", most=16),
    Contender("threads", _CELERY, "celery", most=200),
    Contender("gevent", _CELERY + " -P gevent", "gevent"),
    Contender("arq", "arq pool_peers.WorkerSettings", "arq"),
    Contender("saq", "saq pool_peers.settings", "saq"),
    Contender("taskiq", "taskiq worker pool_peers:broker --workers 1 --max-async-tasks {c}", "taskiq"),
    Contender("streaq", "streaq run pool_peers:worker", "streaq"),
)


def interpreter(environment: str) -> str:
    """Give the Python that has a contender's packages; made when it is missing.

    Raises:
        OSError, subprocess.SubprocessError: It cannot be made.
    """
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)  # noqa: S603
        subprocess.run(  # noqa: S603
            [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *REQUIREMENTS[environment]],
            check=True,
            timeout=300,
            stderr=subprocess.DEVNULL,
        )
    return str(python)
