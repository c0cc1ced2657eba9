"""Virtual environments for the other projects that are measured, made once in `.tmp/bench`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".tmp" / "bench"
_CELERY_PACKAGES = ("celery[redis]>=5.7,<5.8", "redis>=8,<8.2")
REQUIREMENTS = {
    # The pool as another project would use it: `celery` loads the commands of all installed
    # packages, and those of this project take 26 MB.
    "celery": (*_CELERY_PACKAGES, "hiredis>=3", "greenlet>=3.1", "uvloop>=0.21"),
    "arq": ("arq",),
    "saq": ("saq[redis,hiredis]", "typing-extensions"),
    "taskiq": ("taskiq", "taskiq-redis"),
    "streaq": ("streaq", "redis"),
    "gevent": (*_CELERY_PACKAGES, "gevent"),
    "litellm": ("litellm", str(ROOT)),  # its jobs are described with this project's classes
}
"""The packages of each environment; they exclude each other, so each needs its own."""


def interpreter(environment: str) -> str:
    """Return the Python of an environment, which is made if it is missing.

    Raises:
        OSError, subprocess.SubprocessError: The environment cannot be made.
    """
    python = ENVIRONMENTS / environment / "bin" / "python"
    is_complete = ENVIRONMENTS / environment / "complete"
    if not is_complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", python.parents[1]], check=True)  # noqa: S603
        subprocess.run(  # noqa: S603
            [
                python,
                "-m",
                "pip",
                "install",
                "-qq",
                "--disable-pip-version-check",
                *REQUIREMENTS[environment],
            ],
            check=True,
            timeout=300,
            stderr=subprocess.DEVNULL,
        )
        is_complete.touch()
    return str(python)
