"""Wrong settings: each gets one message, with the variable's name and never a secret."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from config.errors import SettingsError
from config.settings import SECRET_FIELDS, Settings, settings_from, variable_of

CANARY = "Zq9canaryQz7"


pytestmark = pytest.mark.usefixtures("bare_environment")


WRONG = [
    # The variables, and the beginning of the message.
    ({"KEYWHEEL_MAX_RETRIES": "many"}, "KEYWHEEL_MAX_RETRIES must be a whole number."),
    ({"KEYWHEEL_MAX_RETRIES": "1.5"}, "KEYWHEEL_MAX_RETRIES must be a whole number."),
    ({"KEYWHEEL_MAX_RETRIES": "0"}, "KEYWHEEL_MAX_RETRIES must be at least 1."),
    ({"KEYWHEEL_GROQ_TIMEOUT_S": "60s"}, "KEYWHEEL_GROQ_TIMEOUT_S must be a number (seconds)."),
    (
        {"KEYWHEEL_RETRY_BACKOFF_S": "0"},
        "KEYWHEEL_RETRY_BACKOFF_S must be greater than 0 (seconds).",
    ),
    ({"KEYWHEEL_RETRY_BACKOFF_S": "nan"}, "KEYWHEEL_RETRY_BACKOFF_S must be"),
    ({"KEYWHEEL_DEADLINE_S": "inf"}, "KEYWHEEL_DEADLINE_S must be"),
    ({"FLOWER_PORT": "65536"}, "FLOWER_PORT must be at most 65535."),
    ({"KEYWHEEL_LOG_LEVEL": "loud"}, "KEYWHEEL_LOG_LEVEL must be one of 'DEBUG'"),
    ({"KEYWHEEL_LOG_FORMAT": "xml"}, "KEYWHEEL_LOG_FORMAT must be one of 'text' or 'json'."),
    ({"KEYWHEEL_SHOW_CONTENT": "perhaps"}, "KEYWHEEL_SHOW_CONTENT must be true or false."),
    ({"KEYWHEEL_NAMESPACE": "a{b}"}, "KEYWHEEL_NAMESPACE must be 1 to 64 letters"),
    ({"GROQ_MODEL": "two words"}, "GROQ_MODEL must be one word"),
    # addresses: no scheme, a wrong one, a user in it, no host
    ({"GROQ_BASE_URL": "api.groq.com"}, "GROQ_BASE_URL must start with https:// or http://."),
    ({"RESEND_API_URL": "ftp://host"}, "RESEND_API_URL must start with"),
    ({"RESEND_API_URL": "https://a:b@host"}, "RESEND_API_URL must be a plain address"),
    ({"RESEND_API_URL": "https:///path"}, "RESEND_API_URL has no valid host and port"),
    # Redis: a raw slash in the password, port zero, blanks, another broker, a socket without a
    # path
    (
        {"REDIS_URL": f"redis://:{CANARY}/x@host:1/0"},
        "REDIS_URL has no valid host and port; percent-encode",
    ),
    ({"REDIS_URL": f"redis://:{CANARY}@host:0/0"}, "REDIS_URL has no valid host and port"),
    ({"REDIS_URL": f"redis://:{CANARY} x@host/0"}, "REDIS_URL must not contain blanks"),
    ({"REDIS_URL": CANARY}, "REDIS_URL must start with redis:// or rediss:// or sentinel://."),
    (
        {"CELERY_BROKER_URL": f"kafka://u:{CANARY}@host//"},
        "CELERY_BROKER_URL must start with redis:// or rediss:// or sentinel:// or redis+socket://",
    ),
    ({"CELERY_BROKER_URL": f"amqp://u:{CANARY}@/v"}, "CELERY_BROKER_URL has no valid host"),
    (
        {"CELERY_BROKER_URL": f"amqp://u:{CANARY}@h/v?x=1"},
        "CELERY_BROKER_URL has an unknown option",
    ),
    ({"CELERY_BROKER_URL": "amqps://h//?x=1"}, "CELERY_BROKER_URL has an unknown option"),
    ({"CELERY_BROKER_URL": "amqps://a//;amqps://b//"}, "CELERY_BROKER_URL may name several nodes"),
    ({"CELERY_BROKER_URL": "amqp://a//;amqps://b//"}, "CELERY_BROKER_URL must have amqp:// or"),
    (
        {"CELERY_RESULT_BACKEND": f"amqp://u:{CANARY}@host//"},
        "CELERY_RESULT_BACKEND must start with redis://",
    ),
    ({"KEYWHEEL_POOL_URL": "unix://"}, "KEYWHEEL_POOL_URL must name a socket's path."),
    ({"REDIS_URL_FILE": "no/such/file"}, "REDIS_URL_FILE names a file that does not exist."),
    ({"REDIS_URL_FILE": "."}, "REDIS_URL_FILE does not name a plain file."),
    ({"FLOWER_BASIC_AUTH": CANARY}, "FLOWER_BASIC_AUTH must be user:password"),
    ({"FLOWER_BASIC_AUTH": f"a:{CANARY},b:"}, "FLOWER_BASIC_AUTH must be user:password"),
    ({"KEYWHEEL_NOTIFY_HOSTS": "https://a.example"}, "KEYWHEEL_NOTIFY_HOSTS must be hosts such"),
    ({"KEYWHEEL_NOTIFY_SECRET": CANARY}, "KEYWHEEL_NOTIFY_SECRET must be whsec_ and at least 24"),
    ({"KEYWHEEL_NOTIFY_SECRET": f"whsec_{CANARY}"}, "KEYWHEEL_NOTIFY_SECRET must be whsec_ and"),
    # settings that contradict each other
    (
        {"REDIS_URL": "sentinel://a/0?master_name=m", "KEYWHEEL_FAST_TRANSPORT": "false"},
        "KEYWHEEL_FAST_TRANSPORT=false does not work with sentinel://",
    ),
    ({"KEYWHEEL_NOTIFY_HOSTS": "a.example"}, "KEYWHEEL_NOTIFY_HOSTS needs KEYWHEEL_NOTIFY_SECRET"),
    ({"KEYWHEEL_TASK_TIME_LIMIT_S": "1"}, "KEYWHEEL_TASK_TIME_LIMIT_S must be at least 2"),
    (
        {"KEYWHEEL_GROQ_TIMEOUT_S": "270"},
        "KEYWHEEL_GROQ_TIMEOUT_S (270) must stay below 270 s. At that time KEYWHEEL_TASK_TIME_LIM",
    ),
    (
        {"KEYWHEEL_RESEND_TIMEOUT_S": "270"},
        "KEYWHEEL_RESEND_TIMEOUT_S (270) must stay below 270 s. At that time KEYWHEEL_TASK_TIME_",
    ),
]


@pytest.mark.parametrize(("environ", "beginning"), WRONG)
def test_a_wrong_value_gives_one_sentence_that_names_its_variable(
    environ: dict[str, str], beginning: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(environ)
    (sentence,) = caught.value.sentences
    assert sentence.startswith(beginning)
    assert sentence.endswith(".")
    assert CANARY not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_all_wrong_values_are_reported_at_once_and_the_error_survives_pickling() -> None:
    import pickle  # noqa: PLC0415

    with pytest.raises(SettingsError) as caught:
        settings_from({"REDIS_URL_FILE": "gone", "FLOWER_PORT": "x", "KEYWHEEL_MAX_RETRIES": "x"})
    assert [sentence.split()[0] for sentence in caught.value.sentences] == [
        "REDIS_URL_FILE",
        "KEYWHEEL_MAX_RETRIES",
        "FLOWER_PORT",
    ]
    assert pickle.loads(pickle.dumps(caught.value)).sentences == caught.value.sentences  # noqa: S301


@pytest.mark.usefixtures("untraced")
@given(
    st.sampled_from(sorted(SECRET_FIELDS)),
    st.text(alphabet=st.characters(codec="utf-8"), min_size=1).map(lambda text: CANARY + text),
)
@settings(max_examples=25 * len(SECRET_FIELDS))
def test_no_secret_value_is_ever_in_a_sentence(field: str, value: str) -> None:
    for text in (value, f"redis://:{value}@host:1/0", f"redis://{value}"):
        try:
            shown = repr(settings_from({variable_of(field): text}))
        except SettingsError as exc:
            shown = repr(exc)
        # After redis:// without a password comes a host, which is not secret.
        assert CANARY not in shown or text == f"redis://{value}"


@pytest.mark.parametrize(
    "text", ["30", "rps=2", "rpm=0", "rpm=-1", "rpm=x", "rpm=30,rpm=40", "rpm", "rpm=1e3"]
)
def test_wrong_limits_are_refused_with_the_names_of_the_limits(text: str) -> None:
    with pytest.raises(
        SettingsError,
        match=r"KEYWHEEL_GROQ_LIMITS .*must be limits such as rpm=30, of rpm, rpd, tpm",
    ):
        settings_from({"KEYWHEEL_GROQ_LIMITS": text})


def test_settings_of_a_service_that_is_unknown_are_refused() -> None:
    with pytest.raises(ValidationError, match="there is no service grok"):
        Settings(services={"grok": {}})
