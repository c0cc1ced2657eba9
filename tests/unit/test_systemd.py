"""The unit of `deploy/systemd`."""

import re
from pathlib import Path

from config.settings import Settings

UNIT = Path(__file__).parents[2] / "deploy/systemd/keywheel-worker.service"
TEXT = UNIT.read_text()


def values(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", TEXT, re.MULTILINE)


def test_a_worker_may_finish_every_job_that_it_has_begun() -> None:
    assert int(values("TimeoutStopSec")[0]) > Settings().task_time_limit_s
    assert values("ExecStart") == ["/opt/keywheel/bin/python -m keywheel"]


def test_secrets_are_credentials() -> None:
    credentials = {line.partition(":")[0] for line in values("LoadCredential")}
    files = re.findall(r"^Environment=\w+_FILE=%d/(\S+)$", TEXT, re.MULTILINE)
    assert set(files) == credentials
    assert not re.search(r"^Environment=\w*(KEY|URL|TOKEN|AUTH)=", TEXT, re.MULTILINE)
