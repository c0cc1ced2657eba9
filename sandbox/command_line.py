"""The command line of the sandbox: options, help, and the configuration made from them."""

import argparse
from pathlib import Path

from sandbox.accounts import GroqLimits, ResendLimits
from sandbox.config import Config
from sandbox.groq_call import GroqSettings
from sandbox.models import DEFAULT_MODELS
from sandbox.resend import ResendSettings

_DESCRIPTION = """\
The sandbox simulates Groq and Resend over real HTTP, for tests and demos. It prints environment
variables (GROQ_BASE_URL, RESEND_API_URL, the keys) that point a client at it. Control calls or a
scenario make things go wrong, and the ledger says what happened.
"""
_EXAMPLES = """\
examples:
  python -m sandbox                                  3 Groq keys, 2 Resend keys, free limits
  python -m sandbox --groq-keys 5 --groq-rpm 600 --groq-tpm 0 --groq-latency-ms 200
  python -m sandbox --groq-keys 4 --groq-keys-per-org 2   two organisations, two keys each
  python -m sandbox --keys-file accounts.json --scenario trouble.json

accounts.json (everything but the lists is optional; keys may be a number):
  {"living": ["openai/gpt-oss-20b", "openai/gpt-oss-120b", "a-new-model"],
   "groq":   [{"account": "org_a", "keys": ["gsk_..."], "rpm": 30,
               "models": {"openai/gpt-oss-20b": {"tpm": 8000}}}],
   "resend": [{"account": "team_a", "keys": 2, "domains": ["a.example.net"],
               "from": "Me <me@a.example.net>"}]}

trouble.json:
  {"starts": "first_call",
   "steps": [{"at_s": 5, "do": "fault", "service": "groq", "status": 503, "seconds": 3,
              "share": 0.5},
             {"at_s": 10, "do": "exhaust", "service": "groq", "seconds": 10},
             {"at_s": 15, "do": "revoke", "key": "groq:2"}]}

control calls (POST /control/VERB with a JSON object; GET for the first four):
  state | ledger[?full=1] | mail | kinds
  exhaust   {"service", "seconds", "account"?}            every account answers 429 with retry-after
  fault     {"service", "kind" or "status", "seconds" or "count" or "share", "key"?, "account"?,
             "model"?, "accept"?, "retry_after_s"?, "hang_s"?}
                                                          GET /control/kinds lists the kinds
  clear     {"service"?, "number"?}                       ends faults
  revoke    {"key", "form"?: 400|401|403, "standing"?: revoked|suspended|restricted}
  restore   {"key"}                                       key: secret, fingerprint, label, or groq:1
  standing  {"service": "groq", "account"?,
             "standing": organization_restricted|blocked_api_access|live}
  standing  {"service": "groq", "account"?, "model",
             "code": model_not_found|model_decommissioned|model_terms_required|…|null}
  limits    {"service", "account"?, "rpm"|"rpd"|"tpm"|"tpd"|"itpm"|"otpm"|"rps"|"daily"|"monthly"}
  advance   {"seconds"}                                   moves the sandbox's clock
  reset     {"ledger"?: true}                             restores the initial state

  curl -X POST localhost:8765/control/exhaust -d '{"service": "groq", "seconds": 20}'

The sandbox has no authentication: keep it on 127.0.0.1.
"""


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _ms(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_count, default=8765, help="port, 0 for a free one (default: %(default)s)")
    add(
        "--keys-file",
        type=Path,
        metavar="FILE",
        help="accounts and keys as JSON, instead of generated ones",
    )
    add(
        "--accept-unknown-keys",
        action="store_true",
        help="accept any key, each with an account of its own",
    )
    add("--scenario", type=Path, metavar="FILE", help="timed control calls as JSON")
    add(
        "--grace-ms",
        type=_ms,
        default=250.0,
        help="how long after a refusal calls in flight do not count as violations",
    )
    add(
        "--ledger-size",
        type=_positive,
        default=100_000,
        help="full records kept (default: %(default)s)",
    )
    add("--seed", type=int, help="seed of the random numbers (keys are always random)")
    add(
        "--redis",
        action="store_true",
        help="run a Redis, too, and print its REDIS_URL; its data goes when the sandbox stops",
    )
    add(
        "--stop-on-eof",
        action="store_true",
        help="stop when standard input closes, for example because the parent died",
    )
    group = parser.add_argument_group("Groq", "limits are per organisation and model; 0 means none")
    add = group.add_argument
    add("--groq-keys", type=_count, default=3, metavar="N")
    add(
        "--groq-keys-per-org",
        type=_positive,
        default=1,
        metavar="N",
        help="keys that share an organisation",
    )
    limits = GroqLimits()
    add(
        "--groq-rpm",
        type=_count,
        default=limits.rpm,
        metavar="N",
        help="requests a minute (default: %(default)s)",
    )
    add(
        "--groq-rpd",
        type=_count,
        default=limits.rpd,
        metavar="N",
        help="requests a day (default: %(default)s)",
    )
    add(
        "--groq-tpm",
        type=_count,
        default=limits.tpm,
        metavar="N",
        help="tokens a minute (default: %(default)s)",
    )
    add(
        "--groq-tpd",
        type=_count,
        default=limits.tpd,
        metavar="N",
        help="tokens a day (default: %(default)s)",
    )
    add(
        "--groq-itpm",
        type=_count,
        default=limits.itpm,
        metavar="N",
        help="tokens of prompts a minute",
    )
    add(
        "--groq-otpm",
        type=_count,
        default=limits.otpm,
        metavar="N",
        help="tokens of answers a minute",
    )
    add(
        "--groq-latency-ms", type=_ms, default=0.0, metavar="MS", help="how long a completion takes"
    )
    add(
        "--groq-jitter-ms",
        type=_ms,
        default=0.0,
        metavar="MS",
        help="random addition to the latency",
    )
    add(
        "--groq-completion-tokens",
        type=_positive,
        default=24,
        metavar="N",
        help="length of an answer",
    )
    add(
        "--groq-stream-ms",
        type=_ms,
        default=0.0,
        metavar="MS",
        help="time between two pieces of a streamed answer",
    )
    add(
        "--groq-models",
        default=",".join(DEFAULT_MODELS),
        metavar="A,B",
        help="models that exist (default: %(default)s)",
    )
    group = parser.add_argument_group("Resend", "limits are per team; a quota of 0 means none")
    add = group.add_argument
    add("--resend-keys", type=_count, default=2, metavar="N")
    add(
        "--resend-keys-per-team",
        type=_positive,
        default=1,
        metavar="N",
        help="keys that share a team",
    )
    team = ResendLimits()
    add(
        "--resend-rps",
        type=_positive,
        default=team.rps,
        metavar="N",
        help="requests a second (default: %(default)s)",
    )
    add(
        "--resend-daily",
        type=_count,
        default=team.daily,
        metavar="N",
        help="recipients a day (default: %(default)s)",
    )
    add(
        "--resend-monthly",
        type=_count,
        default=team.monthly,
        metavar="N",
        help="recipients a month",
    )
    add(
        "--resend-latency-ms",
        type=_ms,
        default=0.0,
        metavar="MS",
        help="how long taking an email lasts",
    )
    add(
        "--resend-jitter-ms",
        type=_ms,
        default=0.0,
        metavar="MS",
        help="random addition to the latency",
    )
    add(
        "--resend-refusal-form",
        type=int,
        choices=(400, 401, 403),
        default=401,
        help="how an unknown key is refused",
    )
    return parser


def config_of(given: argparse.Namespace) -> Config:
    """Turn the arguments into a configuration."""
    return Config(
        groq_keys=given.groq_keys,
        groq_keys_per_org=given.groq_keys_per_org,
        groq_limits=GroqLimits(
            given.groq_rpm,
            given.groq_rpd,
            given.groq_tpm,
            given.groq_tpd,
            given.groq_itpm,
            given.groq_otpm,
        ),
        groq=GroqSettings(
            models=tuple(name.strip() for name in given.groq_models.split(",") if name.strip()),
            latency_ms=given.groq_latency_ms,
            jitter_ms=given.groq_jitter_ms,
            completion_tokens=given.groq_completion_tokens,
            stream_ms=given.groq_stream_ms,
        ),
        resend_keys=given.resend_keys,
        resend_keys_per_team=given.resend_keys_per_team,
        resend_limits=ResendLimits(given.resend_rps, given.resend_daily, given.resend_monthly),
        resend=ResendSettings(
            given.resend_latency_ms, given.resend_jitter_ms, given.resend_refusal_form
        ),
        keys_file=given.keys_file,
        accept_unknown_keys=given.accept_unknown_keys,
        grace_ms=given.grace_ms,
        ledger_size=given.ledger_size,
        seed=given.seed,
    )
