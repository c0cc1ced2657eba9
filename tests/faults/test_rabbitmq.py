"""RabbitMQ with quorum queues as broker: kills of a worker and of the broker under load."""

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from config.errors import SettingsError
from config.settings import Settings
from config.urls import SecretUrl
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import eventually, workers
from tests.rabbitmq import RabbitMq, needs_rabbitmq, producer_of, rabbitmqs
from tests.tls import Authority, tls_before
from tests.tuned import tuned
from worker.broker_errors import BROKER_ERRORS
from worker.cli.session import failure_of
from worker.dashboard.queues import QueueWatch
from worker.key_reload import ask_workers
from worker.startup.rabbitmq import check_rabbitmq

RESTING, JOBS, EMAILS = 10, 120, 80
LOAD: dict[str, Any] = {
    "groq_keys": 3, "groq_rpm": 3_000, "groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0,
    "groq_latency_ms": 300,
    "resend_keys": 2, "resend_rps": 10, "resend_daily": 0, "resend_monthly": 0,
    "resend_latency_ms": 300,
}  # fmt: skip
SETTINGS = {
    "KEYWHEEL_WORKER_CONCURRENCY": "40",
    # an email whose worker died is tried again when its call must have ended: after 9 s
    "KEYWHEEL_RESEND_TIMEOUT_S": "2",
} | tuned(max_wait_s=0.5)


def assert_refuses_strangers(broker: RabbitMq) -> None:
    for wrong, words in (
        (broker.url.replace("guest@", "canary@"), "the user or the password is wrong"),
        (broker.url.replace("//", "/none").replace("amqp:/none", "amqp://"), "virtual host"),
    ):
        with pytest.raises(SettingsError, match=words) as caught:
            check_rabbitmq(Settings(broker_url=SecretUrl(wrong)))
        assert "canary" not in str(caught.value)
        # So do commands and Flower: they describe the job, and end without a traceback.
        with pytest.raises(BROKER_ERRORS) as refused:
            ask_workers(Celery(broker=wrong, set_as_current=False), timeout_s=1)
        assert words in failure_of(refused.value)


def assert_has_tls(broker: RabbitMq, authority: Authority) -> None:
    with tls_before(broker.port, authority.server_context()) as port:
        url = f"amqps://guest:guest@127.0.0.1:{port}//?{authority.client}"
        check_rabbitmq(Settings(broker_url=SecretUrl(f"{url}&{authority.trust}")))
        with pytest.raises(SettingsError, match="a certificate that is not trusted"):
            check_rabbitmq(Settings(broker_url=SecretUrl(url)))


@needs_rabbitmq
@pytest.mark.timeout(300)  # RabbitMQ starts twice, in 8 s each time on an idle machine
def test_rabbitmq_loses_no_job_and_no_email_is_sent_twice_through_kills(tmp_path: Path) -> None:
    with (
        rabbitmqs(tmp_path / "rabbitmq") as broker,
        EmbeddedRedis(data_dir=tmp_path / "redis") as redis,
        Sandbox(**LOAD) as sandbox,
    ):
        assert_refuses_strangers(broker)
        assert_has_tls(broker, Authority(tmp_path / "authority"))
        urls = {"REDIS_URL": redis.url, "CELERY_BROKER_URL": broker.url}
        producer = producer_of(broker, redis.url)
        environ = sandbox.env() | urls | SETTINGS
        with workers(tmp_path / "workers", environ, count=2) as [first, second]:
            # Jobs without a key wait in the broker, and come back without help.
            sandbox.control("exhaust", service="groq", seconds=3)
            prompts = [{"prompt": f"rests {n}"} for n in range(RESTING)]
            ended = producer.await_all(producer.many("tasks.ai.complete", prompts), within_s=60)
            assert "Deferred(" in first.log + second.log
            queues = QueueWatch(producer.app, ("ai", "email")).poll()
            assert {(queue.ready, queue.workers) for queue in queues.values()} == {(0, 2)}

            ids = producer.many("tasks.ai.complete", [{"prompt": f"a {n}"} for n in range(JOBS)])
            mail = {"to": "ann@example.com", "text": "Hello"}
            ids += producer.many(
                "tasks.email.send", [mail | {"subject": f"mail {n}"} for n in range(EMAILS)]
            )
            eventually(lambda: len(sandbox.mail()) > EMAILS // 10, what="jobs under way")
            first.kill()
            eventually(lambda: len(sandbox.mail()) > EMAILS // 3, what="jobs under way")
            broker.kill()
            broker.start()
            broker.await_ready()
            ended |= producer.await_all(ids, within_s=60)
            assert "Traceback" not in second.log
        assert [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"] == []
        accepted = [sandbox.mail().get(f"mail {n}", []) for n in range(EMAILS)]
        assert {len(accounts) for accounts in accepted} == {1}
        producer.close()
