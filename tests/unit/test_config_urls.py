"""URLs with passwords: what is shown of them, and RabbitMQ's as py-amqp reads them."""

import pytest

from config.amqp_url import AmqpUrl
from config.urls import masked_url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "at redis://u:canary@h/0?x=1 and amqp://:canary@h",
            "at redis://u:***@h/0?x=1 and amqp://:***@h",
        ),
        ("redis://h?password=canary&db=1", "redis://h?password=***&db=1"),
        ("sentinel://h?SENTINEL_PASSWORD=canary#x", "sentinel://h?SENTINEL_PASSWORD=***#x"),
        ("redis://h/0", "redis://h/0"),
        ("is it ?token=of:no@url", "is it ?token=of:no@url"),
    ],
)
def test_a_text_shows_no_password_of_a_url_and_all_else(text: str, shown: str) -> None:
    assert masked_url(text) == shown


FILES = {"ca_certs": "/ca", "certfile": "/c", "keyfile": ""}


@pytest.mark.parametrize(
    ("given", "url", "tls"),
    [
        ("amqp://u:p@h:5672/v", "amqp://u:p@h:5672/v", None),
        ("amqp://a;amqp://b", "amqp://a;amqp://b", None),
        ("amqps://h/v", "amqps://h/v", {"server_hostname": None}),
        (
            "amqps://h/v?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=",
            "amqps://h/v",
            {"server_hostname": None, **FILES},
        ),
    ],
)
def test_a_url_of_rabbitmq_is_one_for_kombu_and_options_for_py_amqp(
    given: str, url: str, tls: dict[str, str | None] | None
) -> None:
    assert AmqpUrl.read(given) == AmqpUrl(url, tls)


NONE = "has an unknown option: amqp:// has no options"
KNOWN = "has an unknown option: the options are ssl_ca_certs, ssl_certfile, ssl_keyfile"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("amqp://h?x=1", NONE),
        ("amqp://h?ssl_ca_certs=/ca", NONE),
        ("amqp://h?x", NONE),
        ("amqp://a?x=1;amqp://b", NONE),
        ("amqp://a;amqp://b?x=1", NONE),
        ("amqps://h?x=1&ssl_certfile=/c", KNOWN),
        ("amqps://h?x=", KNOWN),
        ("amqp://h/v#x", "must not contain #; percent-encode special characters of the password"),
        ("amqp://a/#x;amqp://b", "must not contain #; percent-encode special characters"),
        ("amqp://a;amqps://b", "must have amqp:// or amqps:// for all nodes"),
        ("amqps://a;amqps://b", "may name several nodes with amqp:// only"),
    ],
)
def test_a_url_of_rabbitmq_that_cannot_work_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AmqpUrl.read(url)
