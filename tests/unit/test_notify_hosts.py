"""The hosts to which results may be posted: the listed URLs, and the public addresses."""

from types import SimpleNamespace
from typing import Any

import pytest

from config.notify_hosts import NotifyHost, host_of, notify_hosts
from worker.arguments import notification
from worker.arguments.base import check
from worker.arguments.completion import CompletionArguments
from worker.arguments.email import EmailArguments
from worker.errors import InvalidArguments
from worker.notifications.addresses import is_public

HOSTS = "hooks.example.com, b.example.com:8443,app.internal:8080=private,[::1]=private,10.0.0.5"


def test_hosts_are_read() -> None:
    assert notify_hosts(HOSTS) == (
        NotifyHost("hooks.example.com", None, private=False),
        NotifyHost("b.example.com", 8443, private=False),
        NotifyHost("app.internal", 8080, private=True),
        NotifyHost("[::1]", None, private=True),
        NotifyHost("10.0.0.5", None, private=False),
    )
    assert notify_hosts("") == ()


@pytest.mark.parametrize("text", ["https://a.example", "a b", "a:0", "a:65536", "a=public", "*"])
def test_other_texts_are_refused_as_hosts(text: str) -> None:
    with pytest.raises(ValueError, match="must be hosts such as"):
        notify_hosts(text)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://hooks.example.com/a?b=c", "hooks.example.com"),
        ("HTTPS://Hooks.Example.com", "hooks.example.com"),
        ("https://hooks.example.com:443/", "hooks.example.com"),
        ("https://b.example.com:8443/x", "b.example.com"),
        ("http://app.internal:8080/x", "app.internal"),
        ("http://[::1]/x", "[::1]"),
    ],
)
def test_the_host_of_a_listed_url_is_found(url: str, name: str) -> None:
    assert host_of(url, notify_hosts(HOSTS)).name == name


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://evil.example/", "does not list"),
        ("https://hooks.example.com.evil.example/", "does not list"),
        ("https://hooks.example.com:8443/", "does not list"),
        ("https://b.example.com/", "does not list"),
        ("http://hooks.example.com/", "must begin with https://"),
        ("http://hooks.example.com:443/", "does not list"),
        ("https://hooks.example.com@evil.example/", "must be a URL"),
        ("https://evil.example\\@hooks.example.com/", "must be a URL"),
        ("https://hooks.example.com\\.evil.example/", "must be a URL"),
        ("https://hooks.example.com/a b", "must be a URL"),
        ("https://hooks.example.com/#a", "must be a URL"),
        ("https://hooks.example.com/\r\nHost: b", "must be a URL"),
        ("//hooks.example.com/", "must be a URL"),
        ("ftp://hooks.example.com/", "must be a URL"),
        ("https://hooks.example.com/" + "a" * 2_000, "must be a URL"),
        ("https://hooks.exam\u2024ple.com/", "must be a URL"),
        ("", "must be a URL"),
    ],
)
def test_any_other_url_is_refused_without_being_quoted(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        host_of(url, notify_hosts(HOSTS))
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",  # noqa: S104
        "169.254.169.254",  # the metadata service of cloud machines
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "feff::1%eth0", "fc00::1", "fd12::1",
        "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        "localhost", "",
    ],
)  # fmt: skip
def test_every_other_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (CompletionArguments, {"prompt": "hello"}),
        (EmailArguments, {"to": "a@b.example", "subject": "Hi", "text": ""}),
    ],
)
def test_a_job_may_name_a_url_whose_host_the_settings_list(
    monkeypatch: pytest.MonkeyPatch, model: Any, arguments: dict[str, Any]
) -> None:
    settings = SimpleNamespace(notify_hosts="hooks.example.com")
    monkeypatch.setattr(notification, "get_settings", lambda: settings)
    url = "https://hooks.example.com/done"
    assert check(model, (), arguments | {"notify": url}).notify == url
    with pytest.raises(InvalidArguments, match="notify"):
        check(model, (), arguments | {"notify": "https://other.example/done"})
