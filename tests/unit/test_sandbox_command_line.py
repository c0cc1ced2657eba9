"""The command line of the sandbox: each option has its group, its kind and its bounds."""

from pathlib import Path

import pytest

from sandbox.accounts import GroqLimits, ResendLimits
from sandbox.command_line import config_of, make_parser
from sandbox.config import Config
from sandbox.groq_call import GroqSettings
from sandbox.models import DEFAULT_MODELS
from sandbox.resend import ResendSettings


def test_each_option_sets_its_own_field() -> None:
    numbers = [
        "port", "ledger-size", "seed", "groq-keys", "groq-keys-per-org", "groq-rpm", "groq-rpd",
        "groq-tpm", "groq-tpd", "groq-itpm", "groq-otpm", "groq-completion-tokens", "resend-keys",
        "resend-keys-per-team", "resend-rps", "resend-daily", "resend-monthly",
    ]  # fmt: skip
    times = [
        "grace-ms", "groq-latency-ms", "groq-jitter-ms", "groq-stream-ms", "resend-latency-ms",
        "resend-jitter-ms",
    ]  # fmt: skip
    arguments = [f"--{name}={number}" for number, name in enumerate(numbers, 11)]
    arguments += [f"--{name}={number}.5" for number, name in enumerate(times, 41)]
    arguments += ["--host=h", "--keys-file=k", "--scenario=s", "--accept-unknown-keys"]
    arguments += ["--stop-on-eof", "--groq-models=a, b,", "--resend-refusal-form=403"]
    options = make_parser().parse_args(arguments)
    assert (options.host, options.port, options.scenario, options.stop_on_eof) == (
        "h",
        11,
        Path("s"),
        True,
    )
    assert config_of(options) == Config(
        groq_keys=14,
        groq_keys_per_org=15,
        groq_limits=GroqLimits(16, 17, 18, 19, 20, 21),
        groq=GroqSettings(
            models=("a", "b"),
            latency_ms=42.5,
            jitter_ms=43.5,
            completion_tokens=22,
            stream_ms=44.5,
        ),
        resend_keys=23,
        resend_keys_per_team=24,
        resend_limits=ResendLimits(25, 26, 27),
        resend=ResendSettings(45.5, 46.5, 403),
        keys_file=Path("k"),
        accept_unknown_keys=True,
        grace_ms=41.5,
        ledger_size=12,
        seed=13,
    )


def test_without_options_the_defaults_apply() -> None:
    options = make_parser().parse_args([])
    assert config_of(options) == Config(groq=GroqSettings(models=DEFAULT_MODELS))
    assert (options.host, options.port, options.scenario, options.stop_on_eof) == (
        "127.0.0.1",
        8765,
        None,
        False,
    )


@pytest.mark.parametrize(
    ("options", "least", "sentence"),
    [
        (
            (
                "port groq-keys groq-rpm groq-rpd groq-tpm groq-tpd groq-itpm groq-otpm "
                "resend-keys resend-daily resend-monthly grace-ms groq-latency-ms groq-jitter-ms "
                "groq-stream-ms resend-latency-ms resend-jitter-ms"
            ),
            0,
            "must be 0 or more",
        ),
        (
            "ledger-size groq-keys-per-org groq-completion-tokens resend-keys-per-team resend-rps",
            1,
            "must be 1 or more",
        ),
    ],
)
def test_a_number_below_its_bound_is_refused_in_words(
    options: str, least: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in options.split():
        make_parser().parse_args([f"--{name}={least}"])
        with pytest.raises(SystemExit):
            make_parser().parse_args([f"--{name}={least - 1}"])
        assert f"argument --{name}: {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--grace-ms=inf", "--resend-refusal-form=402", "--see=1"])
def test_anything_else_is_refused(option: str) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args([option])
