"""The verdicts of both providers' judges, at a fixed instant and without random waits."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from worker.providers.groq.verdicts import GroqJudge
from worker.providers.resend.verdicts import ResendJudge
from worker.providers.response import Answer
from worker.verdicts import Fate, Verdict

NINE_PM_S = datetime(2026, 11, 29, 21, tzinfo=UTC).timestamp()
PLAIN = Verdict(Fate.DONE, "")


def now_s() -> float:
    return NINE_PM_S


def midway(least: float, most: float) -> float:
    return (least + most) / 2


def summary(verdict: Verdict) -> str:
    """Return the fields of a verdict that are not defaults, without its reason and limits."""
    left_out = {"fate", "code", "reason", "status", "limits"}
    odd = {
        field.name: getattr(verdict, field.name)
        for field in fields(Verdict)
        if field.name not in left_out and getattr(verdict, field.name) != getattr(PLAIN, field.name)
    }
    return " ".join(
        [verdict.fate, verdict.code, *(f"{name}={value}" for name, value in odd.items())]
    )


def groq(status: int, headers: dict[str, str], body: bytes) -> Verdict:
    judge = GroqJudge(now=now_s, jitter=midway)
    answer = Answer.parse(status, headers, body)
    return judge(answer, value=None, secret=SecretStr("gsk_canary"))


def resend(status: int, headers: dict[str, str], body: Any) -> Verdict:
    judge = ResendJudge(now=now_s, jitter=midway)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer.parse(status, headers, content)
    return judge(answer, value=None, secret=SecretStr("re_canary"))
